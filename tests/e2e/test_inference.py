"""Questions at the edge beyond the main path: side by side, and an asker that leaves."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import psutil
from reeltune.trainer.v1 import inference_service_pb2 as pb

from meshkit.testing import assert_eventually
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import TrainedJob

BUSY_SHARE = 0.05
"""Of one processor: less is idle."""
WINDOW_SECONDS = 1.0
DRAWS = 20
"""At a temperature each answer is another, and some are too short to see anything by."""


def question(trained: TrainedJob, **fields: object) -> pb.GenerateRequest:
    row = trained.material.rows[0]
    clip = pb.DatasetClip(dataset_id=trained.dataset.id, path=row["video"])
    return pb.GenerateRequest(job_id=trained.id, dataset_clip=clip, prompt=row["question"], **fields)


async def test_both_answers_come_side_by_side_in_one_call(trained: TrainedJob) -> None:
    request = question(trained, responder=pb.RESPONDER_BOTH, max_new_tokens=24, temperature=2.0)

    for _ in range(DRAWS):
        pieces = [piece async for piece in trained.owner.client.inference.Generate(request, timeout=120)]
        ends = {piece.responder: piece.end for piece in pieces if piece.HasField("end")}
        for responder in (pb.RESPONDER_BASE, pb.RESPONDER_TUNED):
            told = "".join(piece.text for piece in pieces if piece.responder == responder)
            assert told == ends[responder].text
        speakers = [piece.responder for piece in pieces if not piece.HasField("end")]
        if sum(one != other for one, other in itertools.pairwise(speakers)) > 2:
            return
    raise AssertionError("one waits for the other's end")


async def test_when_the_asker_leaves_the_model_stops_and_stays_loaded(stack: RunningMesh, trained: TrainedJob) -> None:
    for _ in range(DRAWS):
        answered = len(trainer_log(stack, "question.answered"))
        call = await begun(trained)
        child = psutil.Process(inference_pid(stack))

        call.cancel()

        await assert_eventually(CpuUse(child).is_idle)
        if len(trainer_log(stack, "question.answered")) == answered:
            break
    else:
        raise AssertionError("each was answered to its end")
    assert child.is_running(), "the next question needs no loading"
    async for _ in trained.owner.client.inference.Generate(question(trained, max_new_tokens=2), timeout=120):
        pass
    assert inference_pid(stack) == child.pid


async def begun(trained: TrainedJob) -> Any:
    """A question that would take long to answer, and of which the first piece has come."""
    long = question(trained, responder=pb.RESPONDER_BASE, max_new_tokens=2048, temperature=2.0)
    call = trained.owner.client.inference.Generate(long, timeout=120)
    async for _ in call:
        break
    return call


class CpuUse:
    """How busy a process was since it was last looked at."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._last = (time.monotonic(), self._seconds())

    def is_idle(self) -> bool:
        elapsed = time.monotonic() - self._last[0]
        if elapsed < WINDOW_SECONDS:
            return False
        used = self._seconds() - self._last[1]
        self._last = (time.monotonic(), self._seconds())
        return used < BUSY_SHARE * elapsed

    def _seconds(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def trainer_log(mesh: RunningMesh, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in mesh.log("trainer").splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def inference_pid(mesh: RunningMesh) -> int:
    """Pid of the inference child that was last started."""
    return int(trainer_log(mesh, "inference.ready")[-1]["pid"])
