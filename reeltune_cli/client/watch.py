"""Live streams that outlive a broken connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from reeltune.catalog.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    import_pb2,
    import_service_pb2,
    model_pb2,
    model_service_pb2,
)
from reeltune.scheduler.v1 import training_history_pb2 as history
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.client.connection import Client

FINAL_JOB_STATES = frozenset({job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_STOPPED, job_pb2.JOB_STATE_FAILED})
SILENCE_SECONDS = 45.0
"""A stream sends a heartbeat every 15 s: one that is silent for three of them is dead, whatever TCP believes."""
GIVE_UP_SECONDS = 120.0
"""So long a mesh may be out of reach before a watch fails."""
_FIRST_PAUSE_SECONDS = 0.25
_MAX_PAUSE_SECONDS = 5.0
_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
# How a connection looks that was cut in mid-stream; a service that fails so by itself sends its reason with it.
_PASSING_WITHOUT_REASON = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED})


@dataclass(slots=True)
class _Position:
    """How much of a stream has been told."""

    sequence: int = 0
    is_final: bool = False
    """The newest message says that nothing new will come."""
    has_ended: bool = False
    """The very last message has been told."""


async def watch_job(
    client: Client, job_id: str, after_sequence: int = 0
) -> AsyncIterator[history.WatchTrainingJobResponse]:
    """Yields a job's snapshot, its events after `after_sequence` in order, and each new one, until the job is final.

    A broken stream is taken up where it broke: no event is missed or comes twice. Heartbeats are not passed on; what is
    told of the queue is.

    Raises:
        grpc.aio.AioRpcError: there is no such job, or the mesh is out of reach for too long.
    """
    position = _Position(after_sequence)
    history_end = 0

    def call() -> Any:
        request = history.WatchTrainingJobRequest(job_id=job_id, after_sequence=position.sequence)
        return client.training.WatchTrainingJob(request)

    async for message in _unbroken(call, position):
        match message.WhichOneof("update"):
            case "snapshot":
                position.is_final = message.snapshot.state in FINAL_JOB_STATES
                history_end = message.snapshot.sequence
                yield message
            case "queue":
                yield message
            case "event" if message.event.sequence > position.sequence:
                position.sequence = message.event.sequence
                if message.event.WhichOneof("event") == "state_change":
                    # A job that was tried again has been final before: that is history.
                    is_newest = message.event.sequence >= history_end
                    position.is_final = is_newest and message.event.state_change.to in FINAL_JOB_STATES
                    position.has_ended = position.is_final
                yield message


async def watch_dataset(client: Client, dataset_id: str) -> AsyncIterator[dataset_pb2.Dataset]:
    """Yields a dataset as it changes, until it is READY or ERROR."""
    final = (dataset_pb2.DATASET_STATE_READY, dataset_pb2.DATASET_STATE_ERROR)
    request = dataset_service_pb2.WatchDatasetRequest(dataset_id=dataset_id)
    position = _Position()
    async for message in _unbroken(lambda: client.datasets.WatchDataset(request), position):
        position.has_ended = message.dataset.state in final
        yield message.dataset


async def watch_model(client: Client, model_id: str) -> AsyncIterator[model_pb2.Model]:
    """Yields a model as it changes, until it is READY or ERROR."""
    final = (model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_ERROR)
    request = model_service_pb2.WatchModelRequest(model_id=model_id)
    position = _Position()
    async for message in _unbroken(lambda: client.models.WatchModel(request), position):
        position.has_ended = message.model.state in final
        yield message.model


async def watch_import(client: Client, import_id: str) -> AsyncIterator[import_pb2.Import]:
    """Yields an import as it changes, until it has ended."""
    request = import_service_pb2.WatchImportRequest(import_id=import_id)
    position = _Position()
    async for message in _unbroken(lambda: client.imports.WatchImport(request), position):
        position.has_ended = message.data_import.state != import_pb2.IMPORT_STATE_RUNNING
        yield message.data_import


async def _unbroken(call: Callable[[], Any], position: _Position) -> AsyncIterator[Any]:
    """Iterates a stream, called again after each break, until the position says that all is told."""
    pause = _FIRST_PAUSE_SECONDS
    heard_at = time.monotonic()
    while True:
        stream = call()
        try:
            async for message in _live(stream):
                pause, heard_at = _FIRST_PAUSE_SECONDS, time.monotonic()
                yield message
                if position.has_ended:
                    return
            if position.is_final:
                return
        except grpc.aio.AioRpcError as error:
            if _has_token_expired(error):
                # Nothing is wrong: the next call has a fresh token, at once.
                heard_at = time.monotonic()
                continue
            if not _is_passing(error) or time.monotonic() - heard_at > GIVE_UP_SECONDS:
                raise
        finally:
            stream.cancel()
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


async def _live(stream: Any) -> AsyncIterator[Any]:
    """Iterates a stream as long as it shows signs of life; silence ends it like a break."""
    iterator = aiter(stream)
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "the stream went silent"
            ) from error
        yield message


def _has_token_expired(error: grpc.aio.AioRpcError) -> bool:
    """A watch ends with the token that it began with."""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED and failure_from_rpc_error(error).reason == "TOKEN_EXPIRED"


def _is_passing(error: grpc.aio.AioRpcError) -> bool:
    if error.code() in _PASSING:
        return True
    has_reason = not failure_from_rpc_error(error).reason.startswith("RPC_")
    return error.code() in _PASSING_WITHOUT_REASON and not has_reason
