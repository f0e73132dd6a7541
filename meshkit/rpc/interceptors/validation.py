"""Last step: the rules in the contract, for single requests and for each message of a request stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import protovalidate
from google.protobuf import message_factory
from google.protobuf.message import Message
from protovalidate import FieldPathPb, Violation

from meshkit.rpc.access import find_service
from meshkit.rpc.failure import Failure, FieldViolation, invalid_fields
from meshkit.rpc.interceptors.step import StepInterceptor
from meshkit.rpc.request_context import RpcContext


class ValidationInterceptor(StepInterceptor):
    """Refuses requests that break a protovalidate rule with `FIELD_INVALID`, naming each field."""

    async def before(self, request: Any, context: RpcContext, method_name: str) -> Any:
        if hasattr(request, "__aiter__"):
            return _checked_stream(request)
        check_message(request)
        return request


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for request bytes that are no message of the expected type."""

    cause: str


def tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Makes a deserializer return Undecodable where it would raise: grpc answers a raise with its Python text."""

    def deserialize_or_mark(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception as error:  # upb raises DecodeError, others ValueError: whichever, the bytes are bad
            return Undecodable(type(error).__name__)

    return deserialize_or_mark


def warm_validator(service_names: Iterable[str]) -> None:
    """Compiles the rules of every request type now: the first validation of a type costs milliseconds.

    Raises:
        protovalidate.CompilationError: a rule in a contract is wrong.
    """
    for name in service_names:
        for method in find_service(name).methods:
            protovalidate.collect_violations(message_factory.GetMessageClass(method.input_type)())


def check_message(request: Any) -> None:
    """Raises the INVALID_ARGUMENT failure for a request that breaks the rules of its contract."""
    if isinstance(request, Undecodable):
        raise _undecodable()
    if not isinstance(request, Message):
        return
    violations = protovalidate.collect_violations(request)
    if violations:
        raise invalid_fields(tuple(_field_violation(violation) for violation in violations))


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        check_message(request)
        yield request


def _field_violation(violation: Violation) -> FieldViolation:
    proto = violation.proto
    path = dotted_path(proto.field) if proto.field is not None else ""
    return FieldViolation(path or "request", proto.message or "is not valid", proto.rule_id or "")


def dotted_path(path: FieldPathPb) -> str:
    """Returns `lora.rank`, `rows[3].clip` or `labels["k"]` for a field path of protovalidate."""
    parts: list[str] = []
    for element in path.elements:
        parts.append(f".{element.field_name}" if parts else element.field_name)
        subscript = element.subscript
        if subscript is not None:
            parts.append(_subscript(subscript.field, subscript.value))
    return "".join(parts)


def _subscript(kind: str, value: object) -> str:
    return f'["{value}"]' if kind == "string_key" else f"[{str(value).lower() if isinstance(value, bool) else value}]"


def _undecodable() -> Failure:
    return Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="REQUEST_UNREADABLE",
        message="the request is not a message of the type this rpc takes; generate the client from our contracts",
    )
