"""Envoy's own errors, said as the services say theirs: a google.rpc.Status with an ErrorInfo, over every door."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DOMAIN = "reeltune"
_ENVOYS_TEXT = "%LOCAL_REPLY_BODY%"
_BAD_CREDENTIAL = "the credential is not valid here or has expired; refresh the session or sign in again"


@dataclass(frozen=True, slots=True)
class EdgeReply:
    """How one HTTP status that Envoy itself answers with is put."""

    http_status: int
    code: code_pb2.Code
    """The google.rpc code in the JSON body."""
    reason: str
    message: str
    """Fixed text; empty takes Envoy's own words, in JSON only."""
    grpc_code: code_pb2.Code | None = None
    """The gRPC status that Envoy makes of the HTTP status; None where that varies, and then no details are added."""
    has_no_token: bool = False
    """Only for requests without an `authorization` header."""
    cause: str = ""
    """Only for replies that Envoy gives this reason for, a part of its response code details."""
    answered_as: int | None = None
    """The HTTP status to answer with instead."""

    @property
    def json_message(self) -> str:
        """The message of the JSON body."""
        return self.message or _ENVOYS_TEXT

    @property
    def grpc_details(self) -> str:
        """The value of `grpc-status-details-bin`."""
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=_DOMAIN))
        status = status_pb2.Status(code=self.grpc_code or 0, message=self.message, details=[detail])
        return base64.b64encode(status.SerializeToString()).decode("ascii").rstrip("=")


EDGE_REPLIES = (
    EdgeReply(400, code_pb2.INVALID_ARGUMENT, "REQUEST_MALFORMED", ""),
    # An edge that starts while the auth service is away knows no key: that says nothing about the token.
    EdgeReply(
        401,
        code_pb2.UNAVAILABLE,
        "SERVICE_UNAVAILABLE",
        "the keys that tokens are verified with cannot be had from the auth service; try again in a moment",
        grpc_code=code_pb2.UNAVAILABLE,
        cause="Jwks_remote_fetch_is_failed",
        answered_as=503,
    ),
    # The two texts of a missing and a bad token are those of the services.
    EdgeReply(
        401,
        code_pb2.UNAUTHENTICATED,
        "TOKEN_MISSING",
        "this call needs a credential: sign in and send `authorization: Bearer <access token>`",
        grpc_code=code_pb2.UNAUTHENTICATED,
        has_no_token=True,
    ),
    EdgeReply(
        401,
        code_pb2.UNAUTHENTICATED,
        "TOKEN_INVALID",
        _BAD_CREDENTIAL,
        grpc_code=code_pb2.UNAUTHENTICATED,
    ),
    # Only the check of tokens says 403, of one that was signed for another audience: bad like any other.
    EdgeReply(
        403,
        code_pb2.UNAUTHENTICATED,
        "TOKEN_INVALID",
        _BAD_CREDENTIAL,
        grpc_code=code_pb2.UNAUTHENTICATED,
        answered_as=401,
    ),
    EdgeReply(
        404,
        code_pb2.NOT_FOUND,
        "RPC_UNKNOWN",
        "nothing is served under this method and path; compare the client's contracts with the server's version",
        grpc_code=code_pb2.UNIMPLEMENTED,
    ),
    EdgeReply(405, code_pb2.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", "this path does not take this HTTP method"),
    EdgeReply(
        408, code_pb2.DEADLINE_EXCEEDED, "REQUEST_TIMED_OUT", "the request did not arrive in time; send it again"
    ),
    EdgeReply(
        413,
        code_pb2.RESOURCE_EXHAUSTED,
        "BODY_TOO_LARGE",
        "the body is larger than 5 MiB; upload files by presigned URL",
    ),
    EdgeReply(415, code_pb2.INVALID_ARGUMENT, "CONTENT_TYPE_UNKNOWN", ""),
    EdgeReply(
        429,
        code_pb2.RESOURCE_EXHAUSTED,
        "RATE_LIMITED",
        "too many sign-ins from this address; wait a minute and try again",
        grpc_code=code_pb2.RESOURCE_EXHAUSTED,
    ),
    EdgeReply(431, code_pb2.INVALID_ARGUMENT, "HEADERS_TOO_LARGE", "the request's headers are too large"),
    EdgeReply(
        500, code_pb2.INTERNAL, "INTERNAL", "the edge failed; tell the operator the `x-request-id` of this answer"
    ),
    EdgeReply(
        502, code_pb2.UNAVAILABLE, "SERVICE_UNAVAILABLE", "the service answered in a way the edge cannot pass on"
    ),
    EdgeReply(
        503,
        code_pb2.UNAVAILABLE,
        "SERVICE_UNAVAILABLE",
        "the service behind this call is not available; try again in a moment",
        grpc_code=code_pb2.UNAVAILABLE,
    ),
    EdgeReply(
        504,
        code_pb2.DEADLINE_EXCEEDED,
        "SERVICE_TIMED_OUT",
        "the service did not answer in time; try again",
        grpc_code=code_pb2.UNAVAILABLE,
    ),
)
"""Envoy takes the first row that fits."""
