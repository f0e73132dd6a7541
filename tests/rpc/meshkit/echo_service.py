"""The imagined service of these tests: does what requests ask for, troubles included."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from meshkit.auth.principal import current_principal
from meshkit.rpc.failure import Failure, PreconditionViolation
from meshkit.rpc.registration import ServicerRegistration
from meshkit.rpc.request_context import RpcContext, current_request_id, remaining_seconds
from meshkit.rpc.status import failure_from_rpc_error

SERVICE = "meshkit_test.v1.EchoService"


@dataclass(frozen=True, slots=True)
class Echo:
    """The generated modules of the test contract."""

    pb: ModuleType
    grpc: ModuleType

    def registration(self, servicer: object) -> ServicerRegistration:
        return ServicerRegistration(self.grpc.add_EchoServiceServicer_to_server, servicer)

    def stub(self, channel: grpc.aio.Channel) -> Any:
        return self.grpc.EchoServiceStub(channel)

    def word(self, text: str) -> Any:
        return self.pb.Word(text=text)


class QueueIsFull(Exception):
    """An error of the imagined domain."""


class QueueIsFuller(QueueIsFull):
    """A subclass without a row of its own."""


ERROR_TABLE = {
    QueueIsFull: lambda error: Failure(
        code=grpc.StatusCode.FAILED_PRECONDITION,
        reason="QUEUE_FULL",
        message=f"the queue is full: {error}",
        metadata={"queue": str(error)},
        precondition_violations=(PreconditionViolation("SPACE", "queue", "wait until it drains"),),
    ),
    # A row that recognises none of its instances.
    KeyError: lambda error: None,
}


@dataclass
class EchoServicer:
    """Does what requests ask for, troubles included."""

    echo: Echo
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    downstream: Any = None

    async def _trouble(self, name: str) -> None:
        match name:
            case "":
                return
            case "domain":
                raise QueueIsFuller("main")
            case "unforeseen":
                raise RuntimeError("canary-secret")
            case "unrecognised":
                raise KeyError("canary-secret")
            case "slow":
                self.begun.set()
                try:
                    await asyncio.sleep(30)
                finally:
                    self.cancelled.set()
            case "own timeout":
                async with asyncio.timeout(0):
                    await asyncio.sleep(1)
            case _:
                raise AssertionError(name)

    async def Open(self, request: Any, context: RpcContext) -> Any:
        return self.echo.pb.OpenResponse(text=request.text, caller=current_principal().kind.name)

    async def Unary(self, request: Any, context: RpcContext) -> Any:
        if request.trouble == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "said by the handler itself")
        if request.trouble == "downstream":
            return await self.downstream.Unary(self.echo.pb.UnaryRequest(word=request.word), metadata=self.metadata())
        await self._trouble(request.trouble)
        return self.echo.pb.UnaryResponse(
            text=request.word.text,
            caller=current_principal().subject,
            request_id=current_request_id() or "",
            remaining_seconds=remaining_seconds() or -1,
        )

    async def Down(self, request: Any, context: RpcContext) -> Any:
        try:
            for number in range(request.count):
                if number == 2:
                    await self._trouble(request.trouble)
                yield self.echo.pb.DownResponse(number=number, caller=current_principal().subject)
        finally:
            self.closed.set()

    async def Up(self, requests: Any, context: RpcContext) -> Any:
        count = 0
        async for _ in requests:
            count += 1
        return self.echo.pb.UpResponse(count=count)

    async def Both(self, requests: Any, context: RpcContext) -> Any:
        async for request in requests:
            await self._trouble(request.trouble)
            yield self.echo.pb.BothResponse(text=request.word.text)

    async def AdminOnly(self, request: Any, context: RpcContext) -> Any:
        return self.echo.pb.AdminOnlyResponse()

    async def Machines(self, request: Any, context: RpcContext) -> Any:
        return self.echo.pb.MachinesResponse()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {current_principal().token}"),)


async def failure_of(call: Any) -> Failure:
    """Returns what a failing call said, after checking the form that every failure has."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = rpc_status.from_call(raised.value)
    assert status is not None, f"no details: {raised.value}"
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo.FromString(infos[0].value)
    assert info.domain == "reeltune"
    assert "canary-secret" not in str(raised.value)
    trailers = dict(raised.value.trailing_metadata() or ())
    assert trailers["x-request-id"]
    return failure_from_rpc_error(raised.value)
