"""InferenceService through a real channel to a real trainer process, whose inference child only repeats."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio
from reeltune.scheduler.v1 import artifact_pb2, recipe_pb2, training_job_pb2
from reeltune.trainer.v1 import inference_service_pb2 as pb
from reeltune.trainer.v1.inference_service_pb2_grpc import InferenceServiceStub

from meshkit.rpc.client import open_channel
from meshkit.rpc.failure import Failure
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing import assert_eventually
from tests.rpc.trainer.fixtures import StartTrainer, TrainerProcess
from tests.rpc.trainer.mesh_doubles import DATASET, JOB, job
from tests.rpc.trainer.running_mesh import Mesh

STRANGER = "usr_01J00000000000000000000002"


@dataclass
class Asker:
    """Asks one trainer."""

    mesh: Mesh
    trainer: TrainerProcess
    stub: InferenceServiceStub

    def call(self, prompt: str = "what?", *, user: str | None = None, **fields: object):
        fields = {"job_id": JOB, "clip_data": b"a clip", **fields}
        if "dataset_clip" in fields:
            del fields["clip_data"]
        metadata = self.mesh.auth.user(user) if user else self.mesh.auth.user()
        return self.stub.Generate(pb.GenerateRequest(prompt=prompt, **fields), metadata=metadata)

    async def answer(self, prompt: str = "what?", **fields: object) -> list[tuple[str, str]]:
        """(responder, whole answer) in order."""
        texts: dict[int, str] = {}
        ends = []
        async for response in self.call(prompt, **fields):
            if response.HasField("end"):
                assert response.end.text == texts[response.responder]
                ends.append((pb.Responder.Name(response.responder), response.end.text))
            else:
                texts[response.responder] = texts.get(response.responder, "") + response.text
        return ends

    async def refusal(self, prompt: str = "what?", **fields: object) -> Failure:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.answer(prompt, **fields)
        return failure_from_rpc_error(refused.value)

    def child(self) -> int:
        """Pid of the inference child that was last started."""
        return int(self.trainer.events("inference.ready")[-1]["pid"])


@pytest_asyncio.fixture(loop_scope="session")
async def asker(mesh: Mesh, start_trainer: StartTrainer) -> AsyncIterator[Asker]:
    trainer = await start_trainer("obedient", inference_idle_seconds="2", inference_waiting="2")
    async with asking(mesh, trainer) as opened:
        yield opened


@contextlib.asynccontextmanager
async def asking(mesh: Mesh, trainer: TrainerProcess) -> AsyncIterator[Asker]:
    """Asks a trainer about a job that is there."""
    mesh.jobs.jobs[JOB] = job()
    put_adapter(mesh, "tuned")
    async with open_channel(await trainer.address()) as channel:
        yield Asker(mesh, trainer, InferenceServiceStub(channel))


def put_adapter(mesh: Mesh, name: str) -> None:
    file = mesh.store.artifact_file("adapter.safetensors", name.encode(), f"artifact/{name}.safetensors")
    mesh.jobs.artifacts[JOB] = artifact_pb2.Artifact(job_id=JOB, files=[file])


async def test_base_and_tuned_model_answer_in_turn_from_one_child(asker: Asker) -> None:
    clip = pb.DatasetClip(dataset_id=DATASET, path="a/one.mp4")
    both = await asker.answer(responder=pb.RESPONDER_BOTH, dataset_clip=clip)
    child = asker.child()

    assert both == [
        ("RESPONDER_BASE", f"base: first clip {child}"),
        ("RESPONDER_TUNED", f"tuned: first clip {child}"),
    ]
    for _ in range(10):
        assert await asker.answer() == [("RESPONDER_TUNED", f"tuned: a clip {child}")]
    assert len(asker.trainer.events("inference.ready")) == 1


async def test_side_by_side_the_pieces_of_both_come_in_turn(asker: Asker) -> None:
    who = [pb.Responder.Name(r.responder) async for r in asker.call(responder=pb.RESPONDER_BOTH) if r.text]

    assert who == ["RESPONDER_BASE", "RESPONDER_TUNED"] * 3


async def test_the_end_of_an_answer_says_whether_it_was_cut(asker: Asker) -> None:
    ends = [r.end async for r in asker.call(max_new_tokens=2) if r.HasField("end")]
    whole = [r.end async for r in asker.call() if r.HasField("end")]

    assert [(end.truncated, end.text) for end in ends] == [(True, "tuned: a clip")]
    assert not whole[0].truncated
    assert (whole[0].prompt_tokens, whole[0].new_tokens) == (5, 3)


async def test_each_question_has_dice_of_its_own(asker: Asker) -> None:
    answers = [(await asker.answer("seed", temperature=1.0))[0][1] for _ in range(2)]

    assert answers[0] != answers[1]


@pytest.mark.parametrize("recipe", [recipe_pb2.RECIPE_EVALUATION, recipe_pb2.RECIPE_MERGE])
async def test_a_job_that_trained_nothing_names_the_one_to_ask(asker: Asker, recipe: recipe_pb2.Recipe) -> None:
    source = f"job_{'1' * 26}"
    asker.mesh.jobs.jobs[JOB].MergeFrom(training_job_pb2.TrainingJob(recipe=recipe, source_job_id=source))

    refusal = await asker.refusal()

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "QUESTION_REFUSED")
    assert f"ask the training it began with, {source}" in refusal.message


async def test_refusals_have_their_reasons(asker: Asker) -> None:
    asker.mesh.jobs.artifacts.pop(JOB)
    missing = pb.DatasetClip(dataset_id=DATASET, path="none.mp4")

    reasons = [
        (await asker.refusal(user=STRANGER)).reason,
        (await asker.refusal()).reason,
        (await asker.refusal(responder=pb.RESPONDER_BASE, dataset_clip=missing)).reason,
        (await asker.refusal("undecodable", responder=pb.RESPONDER_BASE)).reason,
        (await asker.refusal("refused", responder=pb.RESPONDER_BASE)).reason,
        (await asker.refusal("", responder=pb.RESPONDER_BASE)).reason,
    ]

    assert reasons == [
        "JOB_NOT_FOUND",
        "ARTIFACT_NOT_FOUND",
        "CLIP_NOT_FOUND",
        "CLIP_UNDECODABLE",
        "QUESTION_REFUSED",
        "FIELD_INVALID",
    ]


async def test_a_file_that_vanishes_while_it_is_fetched_is_told_as_such(asker: Asker) -> None:
    await asker.answer()
    old = asker.mesh.store.artifact_file("old.safetensors", b"old", "artifact/old.safetensors")
    asker.mesh.jobs.passing = [artifact_pb2.Artifact(job_id=JOB, files=[old])]
    asker.mesh.store.faults.append(("GET", 403))  # its URL has ended, and the artifact has other files by now
    asker.mesh.catalog.left_out.add("a/one.mp4")
    clip = pb.DatasetClip(dataset_id=DATASET, path="a/one.mp4")

    failures = [await asker.refusal(), await asker.refusal(responder=pb.RESPONDER_BASE, dataset_clip=clip)]

    assert [failure.reason for failure in failures] == ["STORAGE_UNAVAILABLE"] * 2
    assert "old.safetensors is not there any more" in failures[0].message
    assert "a/one.mp4 is not there any more" in failures[1].message


async def test_a_model_that_cannot_be_loaded_is_the_models_fault(asker: Asker) -> None:
    asker.mesh.catalog.model["config.json"] = b"unloadable"

    failure = await asker.refusal()

    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNFIT")
    assert "use another" in failure.message


@pytest.mark.parametrize("trouble", ["crash", "fault"])
async def test_after_a_crash_or_a_device_fault_the_next_question_gets_a_fresh_child(asker: Asker, trouble: str) -> None:
    await asker.answer()
    first = asker.child()

    failure = await asker.refusal(trouble)
    (answer,) = await asker.answer()

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "INFERENCE_INTERRUPTED")
    assert failure.retry_after
    assert asker.child() != first
    assert answer == ("RESPONDER_TUNED", f"tuned: a clip {asker.child()}")


async def test_who_leaves_frees_the_model(asker: Asker) -> None:
    call = asker.call("slow")
    async for _ in call:
        break
    call.cancel()

    # The slow answer would have taken a minute and more.
    assert await asyncio.wait_for(asker.answer(), 60)
    assert len(asker.trainer.events("inference.ready")) == 1


async def test_too_many_questions_are_told_to_come_back(asker: Asker) -> None:
    await asker.answer()
    slow = asker.call("slow")
    async for _ in slow:
        break
    waiting = [asyncio.create_task(asker.answer()) for _ in range(4)]
    done, _ = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_EXCEPTION)
    (refused, *_) = done
    failure = failure_from_rpc_error(refused.exception())

    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "INFERENCE_BUSY")
    assert failure.retry_after
    slow.cancel()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(result, list) for result in results) == 2


async def test_an_idle_child_is_stopped_and_training_takes_its_place(asker: Asker) -> None:
    await asker.answer()
    child = psutil.Process(asker.child())
    asker.mesh.scheduler.waiting.append(job())

    await assert_eventually(lambda: asker.mesh.scheduler.received)
    assert is_gone(child)
    assert await asker.answer()
    again = psutil.Process(asker.child())
    await assert_eventually(lambda: is_gone(again))


async def test_a_job_that_takes_the_memory_cuts_the_answer_and_those_who_wait(
    mesh: Mesh, start_trainer: StartTrainer
) -> None:
    trainer = await start_trainer("obedient", inference_during_training="never")
    async with asking(mesh, trainer) as asker:
        slow = asker.call("slow")
        async for _ in slow:
            break
        waiting = asyncio.create_task(asker.refusal("slow"))
        child = psutil.Process(asker.child())
        mesh.scheduler.waiting.append(job())

        with pytest.raises(grpc.aio.AioRpcError) as cut:
            async for _ in slow:
                pass
        failures = [failure_from_rpc_error(cut.value), await asyncio.wait_for(waiting, 60)]

        told = [(failure.code, failure.reason) for failure in failures]
        assert told == [(grpc.StatusCode.RESOURCE_EXHAUSTED, "INFERENCE_BUSY")] * 2
        assert all(failure.retry_after and failure.retry_after >= timedelta(seconds=1) for failure in failures)
        assert "taken this device's memory" in failures[0].message
        await assert_eventually(lambda: mesh.scheduler.received)
        assert is_gone(child), "the memory is free before the job begins"


async def test_only_so_many_adapters_are_kept_on_the_disk(
    mesh: Mesh, start_trainer: StartTrainer, tmp_path: Path
) -> None:
    trainer = await start_trainer("obedient", inference_adapters="2")
    async with asking(mesh, trainer) as asker:
        for name in ("one", "two", "three", "one"):
            put_adapter(mesh, name)
            (answer,) = await asker.answer()
            assert answer == ("RESPONDER_TUNED", f"{name}: a clip {asker.child()}")

        assert len(trainer.events("inference.ready")) == 1
        (kept,) = (tmp_path / "data" / "inference").glob("*/adapters")
        assert len(list(kept.iterdir())) == 2


def is_gone(process: psutil.Process) -> bool:
    """Dead, whether or not anybody has asked how it ended."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
