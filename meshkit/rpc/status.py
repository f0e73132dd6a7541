"""Failures on the wire: `google.rpc.Status` in the trailer `grpc-status-details-bin`, both ways."""

from __future__ import annotations

from datetime import timedelta
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from meshkit.rpc.failure import DOMAIN, Failure, FieldViolation, PreconditionViolation
from meshkit.rpc.request_context import REQUEST_ID_KEY, RpcContext, current_request_id

_DETAILS_KEY = "grpc-status-details-bin"
# Clients refuse trailers above 8 KiB by default; base64 adds a third to these bytes and the message is sent twice.
_MAX_MESSAGE_LENGTH = 1024
_MAX_DETAILS_BYTES = 4096
_MAX_VALUE_LENGTH = 256


async def abort_with(context: RpcContext, failure: Failure) -> NoReturn:
    """Ends the rpc with this failure; raises grpc's AbortError, which must be let through."""
    status = status_from_failure(failure)
    trailers = ((_DETAILS_KEY, status.SerializeToString()), (REQUEST_ID_KEY, current_request_id() or "-"))
    await context.abort(failure.code, status.message, trailing_metadata=trailers)
    raise AssertionError("context.abort returned")


def status_from_failure(failure: Failure) -> status_pb2.Status:
    """Returns the status with exactly one ErrorInfo, and BadRequest, RetryInfo, PreconditionFailure where given."""
    info = error_details_pb2.ErrorInfo(
        reason=failure.reason,
        domain=DOMAIN,
        metadata={key: value[:_MAX_VALUE_LENGTH] for key, value in failure.metadata.items()},
    )
    details: list[message.Message] = [info]
    if failure.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(failure.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if failure.precondition_violations:
        details.append(_precondition_failure(failure.precondition_violations))
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message[:_MAX_MESSAGE_LENGTH])
    for detail in details:
        status.details.append(_packed(detail))
    if failure.field_violations:
        status.details.append(_packed(_bad_request(failure.field_violations, _MAX_DETAILS_BYTES - status.ByteSize())))
    return status


def failure_from_rpc_error(error: grpc.aio.AioRpcError) -> Failure:
    """Returns what a called service said, so that the caller can branch on `reason` or pass the failure on.

    A failure without ErrorInfo (made by grpc or a proxy, not by a service) gets the reason `RPC_<CODE>`.
    """
    code = error.code()
    status = rpc_status.from_call(error) or status_pb2.Status(message=error.details() or "")
    failure = Failure(code=code, reason=f"RPC_{code.name}", message=status.message)
    for detail in status.details:
        _add_detail(failure, detail)
    return failure


def _add_detail(failure: Failure, detail: any_pb2.Any) -> None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    precondition = error_details_pb2.PreconditionFailure()
    if detail.Unpack(info):
        failure.reason, failure.metadata = info.reason, dict(info.metadata)
    elif detail.Unpack(bad_request):
        failure.field_violations = tuple(
            FieldViolation(v.field, v.description, v.reason) for v in bad_request.field_violations
        )
    elif detail.Unpack(retry):
        failure.retry_after = timedelta(seconds=retry.retry_delay.ToTimedelta().total_seconds())
    elif detail.Unpack(precondition):
        failure.precondition_violations = tuple(
            PreconditionViolation(v.type, v.subject, v.description) for v in precondition.violations
        )


def _bad_request(violations: tuple[FieldViolation, ...], budget: int) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for violation in violations:
        row = error_details_pb2.BadRequest.FieldViolation(
            field=violation.field[:_MAX_VALUE_LENGTH],
            description=violation.description[:_MAX_VALUE_LENGTH],
            reason=violation.reason[:_MAX_VALUE_LENGTH],
        )
        # The first row always goes in: a BadRequest that names no field helps nobody.
        if bad_request.field_violations and bad_request.ByteSize() + row.ByteSize() > budget:
            break
        bad_request.field_violations.append(row)
    return bad_request


def _precondition_failure(violations: tuple[PreconditionViolation, ...]) -> error_details_pb2.PreconditionFailure:
    return error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type=violation.type, subject=violation.subject, description=violation.description[:_MAX_VALUE_LENGTH]
            )
            for violation in violations
        ]
    )


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
