from __future__ import annotations

import random

import grpc
import pytest
from reeltune.scheduler.v1 import job_event_pb2 as event_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2

from meshkit.rpc.failure import Failure
from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.client import Client
from reeltune_cli.client.watch import watch_job
from tests.rpc.cli.failing_mesh import JOB_ID, FailingMesh

COUNT = 40


@pytest.fixture(autouse=True)
def _a_whole_life(failing_mesh: FailingMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reeltune_cli.client.watch._FIRST_PAUSE_SECONDS", 0.005)
    events = [event_pb2.JobEvent(sequence=n, progress=job_pb2.JobProgress(step=n)) for n in range(1, COUNT)]
    change = event_pb2.StateChange(to=job_pb2.JOB_STATE_COMPLETED)
    failing_mesh.events = [*events, event_pb2.JobEvent(sequence=COUNT, state_change=change)]


async def sequences(client: Client, after: int = 0) -> list[int]:
    messages = [message async for message in watch_job(client, JOB_ID, after)]
    return [message.event.sequence for message in messages if message.WhichOneof("update") == "event"]


async def test_tells_everything_once_and_ends(client: Client, failing_mesh: FailingMesh) -> None:
    assert await sequences(client) == list(range(1, COUNT + 1))
    assert failing_mesh.watches == [0]


@pytest.mark.parametrize("seed", range(5))
async def test_breaks_lose_nothing_and_repeat_nothing(client: Client, failing_mesh: FailingMesh, seed: int) -> None:
    generator = random.Random(seed)
    failing_mesh.watch_breaks += [generator.choice([0, 1, 5, 9, grpc.StatusCode.UNAVAILABLE]) for _ in range(8)]
    assert await sequences(client) == list(range(1, COUNT + 1)), f"seed {seed}"
    assert failing_mesh.watches == sorted(failing_mesh.watches)


async def test_a_token_that_ends_is_no_break_and_needs_no_pause(
    client: Client, failing_mesh: FailingMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reeltune_cli.client.watch._FIRST_PAUSE_SECONDS", 3600.0)
    expired = Failure(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", "go on with a fresh one")
    failing_mesh.watch_breaks += [expired, expired]
    assert await sequences(client) == list(range(1, COUNT + 1))
    assert failing_mesh.watches == [0, 0, 0]


async def test_goes_on_from_where_it_is_asked_to(client: Client, failing_mesh: FailingMesh) -> None:
    assert await sequences(client, after=30) == list(range(31, COUNT + 1))
    assert await sequences(client, after=COUNT) == []


async def test_a_job_that_was_tried_again_is_told_beyond_its_first_end(
    client: Client, failing_mesh: FailingMesh
) -> None:
    failed = event_pb2.StateChange(to=job_pb2.JOB_STATE_FAILED)
    failing_mesh.events[9] = event_pb2.JobEvent(sequence=10, state_change=failed)
    failing_mesh.watch_breaks += [11, 10]
    assert await sequences(client) == list(range(1, COUNT + 1))
    assert await sequences(client, after=9) == list(range(10, COUNT + 1))


async def test_a_job_that_is_not_there_is_no_break(client: Client, failing_mesh: FailingMesh) -> None:
    failing_mesh.watch_breaks.append(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(client)
    assert failure_from_rpc_error(caught.value).reason == "JOB_NOT_FOUND"
    assert failing_mesh.watches == [0]


async def test_a_service_that_says_it_is_broken_is_believed(client: Client, failing_mesh: FailingMesh) -> None:
    failing_mesh.watch_breaks.append(grpc.StatusCode.INTERNAL)
    with pytest.raises(grpc.aio.AioRpcError):
        await sequences(client)
    assert failing_mesh.watches == [0]


async def test_a_silent_stream_is_taken_up_again(
    client: Client, failing_mesh: FailingMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reeltune_cli.client.watch.SILENCE_SECONDS", 0.5)
    failing_mesh.silent_watches = 2
    assert await sequences(client) == list(range(1, COUNT + 1))
    assert failing_mesh.watches == [0, 0, 0]


async def test_a_mesh_that_stays_away_ends_the_watch(
    client: Client, failing_mesh: FailingMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reeltune_cli.client.watch.GIVE_UP_SECONDS", 0.2)
    failing_mesh.watch_breaks += [grpc.StatusCode.UNAVAILABLE] * 1000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sequences(client)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(failing_mesh.watches) > 1
