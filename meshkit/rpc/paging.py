"""Page tokens: opaque to clients, bound to the caller and the query, and impossible to forge."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Sequence

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import Message

from meshkit.rpc.failure import Failure, invalid_field

Position = tuple[str | int, ...]
"""Where the next page starts: the sort key of the last row sent, e.g. `(create_time_iso, id)`."""

MOST_PAGE_BYTES = 2 * 1024 * 1024
"""Of the rows of a page: half of what an answer may hold, and as JSON still less than the edge lets through."""

_NONCE_BYTES = 12
_MAX_TOKEN_LENGTH = 2048


class PageTokens:
    """Encodes and decodes page tokens with one secret, which every replica of a service shares."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("the page token secret must have at least 16 bytes")
        self._cipher = AESGCM(hashlib.sha256(b"page-token\0" + secret).digest())

    def encode(self, position: Sequence[str | int], *, caller: str, filter: str = "", order_by: str = "") -> str:  # noqa: A002
        """Returns the token of the page that starts after `position`."""
        nonce = os.urandom(_NONCE_BYTES)
        text = json.dumps(list(position), separators=(",", ":")).encode()
        sealed = self._cipher.encrypt(nonce, text, _binding(caller, filter, order_by))
        return base64.urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()

    def decode(self, token: str, *, caller: str, filter: str = "", order_by: str = "") -> Position | None:  # noqa: A002
        """Returns the position in the token, or None for an empty token (the first page).

        Raises:
            Failure: INVALID_ARGUMENT `PAGE_TOKEN_INVALID`, for a changed, foreign or made-up token, or another query's.
        """
        if not token:
            return None
        try:
            if len(token) > _MAX_TOKEN_LENGTH:
                raise ValueError("too long")
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
            text = self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _binding(caller, filter, order_by))
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise _invalid_token() from error
        return tuple(json.loads(text))


def page_size(requested: int, *, default: int = 50, maximum: int = 200) -> int:
    """Returns the number of rows to send: `default` for 0, at most `maximum`.

    Raises:
        Failure: INVALID_ARGUMENT, for a negative size.
    """
    if requested < 0:
        raise invalid_field("page_size", f"must not be negative; use 1 to {maximum}, or 0 for the default of {default}")
    return min(requested or default, maximum)


def fitting(messages: Iterable[Message], most_bytes: int = MOST_PAGE_BYTES) -> int:
    """Returns how many messages, of the first ones, make a page of at most that many bytes; one always does."""
    used = 0
    count = 0
    for message in messages:
        used += message.ByteSize()
        if count and used > most_bytes:
            break
        count += 1
    return count


def _binding(caller: str, filter_text: str, order_by: str) -> bytes:
    return json.dumps([caller, filter_text, order_by]).encode()


def _invalid_token() -> Failure:
    return Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="PAGE_TOKEN_INVALID",
        message="page_token does not belong to this list with this caller, filter and order; start again without it",
        metadata={"field": "page_token"},
    )
