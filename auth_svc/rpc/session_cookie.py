"""The refresh token of a browser's session: kept in a cookie, where no script on the page can read it.

A page asks for this with `x-reeltune-session: cookie`. A page of another site cannot: the header makes the browser ask
first, and the edge admits it from nowhere; `SameSite=Strict` keeps the cookie back as well.
"""

from __future__ import annotations

from datetime import UTC, datetime

from reeltune.auth.v1 import auth_service_pb2, session_pb2

from auth_svc.domain.errors import InvalidField, RefreshTokenInvalid
from auth_svc.domain.session import SessionTokens
from auth_svc.rpc.client_address import Context
from auth_svc.rpc.convert import tokens_to_proto

COOKIE_NAME = "__Host-reeltune-refresh"
_ASKS_FOR_COOKIE = ("x-reeltune-session", "cookie")
# `__Host-` makes browsers insist on Secure, Path=/ and no Domain: no other host, subdomains included, can set it.
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Strict"


async def hand_out(tokens: SessionTokens, context: Context) -> session_pb2.SessionTokens:
    """Returns the message of the tokens; for a browser without the refresh token, which goes into its cookie."""
    message = tokens_to_proto(tokens)
    if _asks_for_cookie(context):
        seconds = int((tokens.refresh_expire_time - datetime.now(UTC)).total_seconds())
        await _set_cookie(context, f"{tokens.refresh_token}; Max-Age={max(seconds, 0)}")
        message.refresh_token = ""
    return message


async def take_back(context: Context) -> None:
    """Has a browser forget its cookie."""
    if _asks_for_cookie(context):
        await _set_cookie(context, "; Max-Age=0")


def refresh_token_of(request: auth_service_pb2.RefreshSessionRequest, context: Context) -> str:
    """Returns the refresh token that the request or the browser's cookie holds.

    Raises:
        InvalidField: neither does, and no cookie was announced.
        RefreshTokenInvalid: a cookie was announced, and none came.
    """
    if request.refresh_token:
        return request.refresh_token
    if not _asks_for_cookie(context):
        raise InvalidField("refresh_token", "value is required; only a browser may leave it to its cookie")
    # Pair by pair: other programs' cookies on the same host may hold what no parser takes, and must not hide this one.
    for value in _metadata(context, "cookie"):
        for pair in value.split(";"):
            name, _, text = pair.strip().partition("=")
            if name == COOKIE_NAME and text:
                return text
    raise RefreshTokenInvalid


async def _set_cookie(context: Context, value: str) -> None:
    await context.send_initial_metadata((("set-cookie", f"{COOKIE_NAME}={value}; {_ATTRIBUTES}"),))


def _asks_for_cookie(context: Context) -> bool:
    name, value = _ASKS_FOR_COOKIE
    return value in _metadata(context, name)


def _metadata(context: Context, name: str) -> list[str]:
    return [str(value) for key, value in context.invocation_metadata() or () if key == name]
