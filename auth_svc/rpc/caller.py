"""Who calls, in this service's words."""

from __future__ import annotations

from auth_svc.domain.session import SessionId
from auth_svc.domain.user import UserId
from auth_svc.usecases.manage_users import Account
from meshkit.auth.principal import current_principal


def calling_account() -> Account:
    """Returns the user and session of the access token that the call carries."""
    principal = current_principal()
    return Account(UserId(principal.subject), SessionId(str(principal.claims.get("sid", ""))))
