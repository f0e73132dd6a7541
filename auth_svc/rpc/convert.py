"""Between messages and the domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from reeltune.auth.v1 import auth_service_pb2, session_pb2, user_pb2, user_service_pb2

from auth_svc.domain.errors import InvalidField
from auth_svc.domain.session import SessionTokens
from auth_svc.domain.user import Role, User, UserChange
from auth_svc.store.user_store import UserQuery
from meshkit.rpc.filtering import Comparison, FieldKind, Flag, Operator, Text, parse_filter

_USER_FILTER: Mapping[str, FieldKind] = {"username": Text(), "email": Text(), "disabled": Flag()}
_UPDATABLE = ("roles", "disabled")
_ROLE_TO_PROTO = {Role.USER: user_pb2.ROLE_USER, Role.ADMIN: user_pb2.ROLE_ADMIN}
_ROLE_FROM_PROTO: Mapping[int, Role] = {int(number): role for role, number in _ROLE_TO_PROTO.items()}


def user_to_proto(user: User) -> user_pb2.User:
    """Returns the message of a user."""
    return user_pb2.User(
        id=user.id,
        username=user.username,
        email=user.email,
        roles=sorted(_ROLE_TO_PROTO[role] for role in user.roles),
        disabled=user.disabled,
        create_time=timestamp(user.create_time),
        update_time=timestamp(user.update_time),
        etag=user.etag,
    )


def tokens_to_proto(tokens: SessionTokens) -> session_pb2.SessionTokens:
    """Returns the message of a session's tokens."""
    return session_pb2.SessionTokens(
        access_token=tokens.access_token,
        access_expire_time=timestamp(tokens.access_expire_time),
        refresh_token=tokens.refresh_token,
        refresh_expire_time=timestamp(tokens.refresh_expire_time),
    )


def jwks_to_proto(keys: Iterable[Mapping[str, str]]) -> auth_service_pb2.GetJwksResponse:
    """Returns the message of a key set."""
    return auth_service_pb2.GetJwksResponse(keys=[session_pb2.JsonWebKey(**key) for key in keys])


def user_query_from_filter(text: str) -> UserQuery:
    """Returns which users a filter asks for.

    Raises:
        FilterError: the filter cannot be read.
    """
    comparisons = parse_filter(text, _USER_FILTER)
    return UserQuery(
        username_like=_patterns(comparisons, "username", positive=True),
        username_unlike=_patterns(comparisons, "username", positive=False),
        email_like=_patterns(comparisons, "email", positive=True),
        email_unlike=_patterns(comparisons, "email", positive=False),
        disabled=[
            (comparison.operator is Operator.EQUALS) == comparison.value
            for comparison in comparisons
            if comparison.field == "disabled"
        ],
    )


def user_change_from_proto(request: user_service_pb2.UpdateUserRequest) -> UserChange:
    """Returns what an update asks for.

    Raises:
        InvalidField: the mask is empty or names a field that is not to be changed, or the roles are not real ones.
    """
    paths = list(request.update_mask.paths)
    unknown = [path for path in paths if path not in _UPDATABLE]
    if unknown or not paths:
        found = f"{unknown[0]!r} cannot be changed" if unknown else "must not be empty"
        raise InvalidField("update_mask", f"{found}; name one or more of: {', '.join(_UPDATABLE)}")
    return UserChange(
        roles=_roles(request.user.roles) if "roles" in paths else None,
        disabled=request.user.disabled if "disabled" in paths else None,
    )


def timestamp(time: datetime) -> Timestamp:
    """Returns the message of a point in time."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


def _patterns(comparisons: Iterable[Comparison], field: str, *, positive: bool) -> list[str]:
    return [
        _pattern(str(comparison.value), is_part=comparison.operator is Operator.HAS)
        for comparison in comparisons
        if comparison.field == field and (comparison.operator is not Operator.DIFFERS) == positive
    ]


def _pattern(value: str, *, is_part: bool) -> str:
    escaped = value.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%" if is_part else escaped


def _roles(numbers: Iterable[int]) -> frozenset[Role]:
    roles = [_ROLE_FROM_PROTO.get(number) for number in numbers]
    if not roles:
        raise InvalidField("user.roles", "must not be empty; to bar a user set `disabled`")
    known = frozenset(role for role in roles if role is not None)
    if len(known) < len(set(roles)):
        raise InvalidField("user.roles", "must be ROLE_USER or ROLE_ADMIN")
    return known
