"""Whole attempts: a real child process, real gRPC streams, real HTTP transfers."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace

import psutil
import pytest
from reeltune.scheduler.v1 import attempt_service_pb2, training_job_pb2, training_parameters_pb2

from meshkit.testing import assert_eventually
from tests.integration.trainer.conftest import Bench
from tests.rpc.trainer.mesh_doubles import JOB, FileStore
from trainer_svc import metrics
from trainer_svc.domain.attempt import FailReason, Recipe
from trainer_svc.domain.errors import CallRefusedError
from trainer_svc.usecases.run_attempt import run_attempt


def kinds(bench: Bench) -> list[str]:
    return [str(report.WhichOneof("body")) for report in bench.mesh.scheduler.reports()]


def steps(bench: Bench) -> list[int]:
    """The steps that were made."""
    return [report.metrics.step for report in bench.mesh.scheduler.reports() if report.HasField("metrics")]


def logged(bench: Bench) -> list[str]:
    return [report.log.text for report in bench.mesh.scheduler.reports() if report.HasField("log")]


def reason(bench: Bench) -> str:
    (failed,) = bench.mesh.scheduler.failed
    return training_job_pb2.StateReason.Name(failed.reason).removeprefix("STATE_REASON_")


async def test_a_normal_attempt_publishes_adapter_and_reports_everything(bench: Bench) -> None:
    metrics.SCHEDULER_REACHED.set(0)
    assert await bench.run("normal") == "COMPLETED"
    # Of a trainer that asks for no jobs, as it has one, the answers to its heartbeats tell.
    assert metrics.REGISTRY.get_sample_value("reeltune_trainer_scheduler_reached") == 1

    scheduler, store = bench.mesh.scheduler, bench.mesh.store
    (completed,) = scheduler.completed
    assert [file.path for file in completed.files] == ["adapter_model.safetensors"]
    assert store.files[f"jobs/{JOB}/adapter_model.safetensors"] == b"weights after 6"
    assert completed.progress.step == 6
    reports = scheduler.reports()
    assert kinds(bench).count("started") == 1
    assert [report.metrics.step for report in reports if report.HasField("metrics")] == [1, 2, 3, 4, 5, 6]
    summary, *lines = [report.log.text for report in reports if report.HasField("log")]
    assert "4 samples and 0 held out; steps 1 to 6" in summary
    assert lines == [f"line {n}" for n in range(1, 7)]
    assert dict(next(r.metrics.values for r in reports if r.HasField("metrics"))) == {"loss": 1, "memory_bytes": 5}
    assert not (bench.folder / "jobs").exists() or not os.listdir(bench.folder / "jobs")


async def test_answers_and_an_early_end_reach_the_scheduler(bench: Bench) -> None:
    assert await bench.run("early") == "COMPLETED"
    (completed,) = bench.mesh.scheduler.completed
    assert (completed.early_end, completed.progress.step) == ("ended at step 1 of 6: no fall", 1)
    (told,) = (each.predictions for each in bench.mesh.scheduler.reports() if each.HasField("predictions"))
    assert (told.step, len(told.best)) == (1, 0)
    (answer,) = told.worst
    assert (answer.sample_id, answer.question, answer.generated, answer.is_cut) == ("e1", "q", "no", True)
    assert answer.loss == 2.5
    assert len(answer.expected.encode()) <= 1024


async def test_the_newest_checkpoint_is_published_beside_training(bench: Bench) -> None:
    bench.script = "obedient"
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, bench.tools))
    await assert_eventually(lambda: attempt.progress.step >= 1)
    attempt.drain_ordered.set()

    await asyncio.wait_for(running, 60)

    (checkpoint,) = bench.mesh.scheduler.committed
    assert {file.path for file in checkpoint.files} == {"state.json", "manifest.json"}
    key = f"jobs/{JOB}/checkpoints/{checkpoint.step}/state.json"
    assert bench.mesh.store.files[key] == f"step {checkpoint.step}".encode()
    assert reason(bench) == FailReason.PREEMPTED


async def test_an_attempt_goes_on_from_the_checkpoint_of_its_claim(bench: Bench) -> None:
    bench.mesh.scheduler.checkpoints = [bench.mesh.store.checkpoint(4)]

    assert await bench.run("resumed") == "COMPLETED"

    assert steps(bench) == [5, 6]


def spoil(store: FileStore, checkpoint: attempt_service_pb2.Checkpoint, damage: str) -> None:
    """Damages a stored checkpoint."""
    name = f"old/{checkpoint.attempt}/{checkpoint.step}"
    state = store.files[f"{name}/state.json"]
    match damage:
        case "flipped bit":
            store.files[f"{name}/state.json"] = bytes([state[0] ^ 1]) + state[1:]
        case "truncated":
            store.files[f"{name}/state.json"] = state[:-1]
        case "missing file":
            del store.files[f"{name}/state.json"]
        case "missing manifest":
            del store.files[f"{name}/manifest.json"]
        case "published without its manifest":
            kept = [file for file in checkpoint.files if file.path != "manifest.json"]
            del checkpoint.files[:]
            checkpoint.files.extend(kept)


DAMAGES = ("flipped bit", "truncated", "missing file", "missing manifest", "published without its manifest")


@pytest.mark.parametrize("damaged", [0, 1, 2, 3])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_newest_whole_checkpoint_is_gone_on_from(bench: Bench, damage: str, damaged: int) -> None:
    store = bench.mesh.store
    bench.mesh.scheduler.checkpoints = [store.checkpoint(5, attempt=2), store.checkpoint(4), store.checkpoint(2)]
    for checkpoint in bench.mesh.scheduler.checkpoints[:damaged]:
        spoil(store, checkpoint, damage)

    assert await bench.run("resumed") == "COMPLETED"

    first = [6, 5, 3, 1][damaged]
    assert steps(bench) == list(range(first, 7))
    warned = [line for line in logged(bench) if "cannot be used" in line]
    assert len(warned) == damaged
    assert not warned or ("beginning at step 0" in warned[-1]) == (damaged == 3)


async def test_a_store_in_trouble_says_nothing_about_a_checkpoint(bench: Bench) -> None:
    bench.mesh.scheduler.checkpoints = [bench.mesh.store.checkpoint(4)]
    bench.mesh.store.faults = [("GET", 503)] * 7

    assert await bench.run("resumed") == "COMPLETED"

    assert steps(bench) == [5, 6]


async def test_an_expired_url_of_a_checkpoint_is_renewed(bench: Bench) -> None:
    bench.mesh.scheduler.checkpoints = [bench.mesh.store.checkpoint(4), bench.mesh.store.checkpoint(2)]
    bench.mesh.store.faults = [("GET", 403)]

    assert await bench.run("resumed") == "COMPLETED"

    assert steps(bench) == [5, 6]


async def test_a_job_that_refuses_every_checkpoint_begins_at_step_0(bench: Bench) -> None:
    bench.mesh.scheduler.checkpoints = [bench.mesh.store.checkpoint(4), bench.mesh.store.checkpoint(2)]

    assert await bench.run("picky") == "COMPLETED"
    assert len(bench.children) == 3


async def test_a_large_file_goes_in_parts_and_only_the_missing_ones_are_sent_again(bench: Bench) -> None:
    bench.mesh.scheduler.part_bytes = 5
    # The first three tries of one part fail, which ends the first round.
    bench.mesh.store.faults = [("PUT", 403)]

    assert await bench.run("normal") == "COMPLETED"

    sent = [path for method, path in bench.mesh.store.requests if method == "PUT" and "adapter_model" in path]
    name = f"jobs/{JOB}/adapter_model.safetensors"
    assert bench.mesh.store.files[name] == b"weights after 6"
    assert set(sent) == {f"{name}.part{number}" for number in (1, 2, 3)}
    assert len(sent) <= 4


async def test_breaks_lose_no_report_and_repeat_none_twice(bench: Bench) -> None:
    bench.mesh.scheduler.breaks = [2, 5, 4]

    assert await bench.run("normal") == "COMPLETED"

    assert bench.mesh.scheduler.attached >= 4
    assert bench.mesh.scheduler.repeated >= 1
    _summary, *logged = [report.log.text for report in bench.mesh.scheduler.reports() if report.HasField("log")]
    assert logged == [f"line {n}" for n in range(1, 7)]


async def test_fencing_kills_the_whole_group(bench: Bench) -> None:
    bench.script = "deaf"
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, bench.tools))
    await assert_eventually(lambda: attempt.progress.step >= 1)
    group = bench.children[0].pid
    leader = psutil.Process(group)
    members = [each for each in (leader, *leader.children(recursive=True)) if os.getpgid(each.pid) == group]
    assert len(members) == 2

    bench.mesh.scheduler.is_fenced = True
    assert await asyncio.wait_for(running, 60) == "FENCED"

    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in members)
    assert not bench.mesh.scheduler.completed
    assert not bench.mesh.scheduler.failed


async def test_a_stop_publishes_the_adapter_so_far(bench: Bench) -> None:
    bench.script = "obedient"
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, bench.tools))
    await assert_eventually(lambda: attempt.progress.step >= 2)

    bench.mesh.scheduler.orders.set()

    assert await asyncio.wait_for(running, 60) == "STOPPED"
    store = bench.mesh.store
    adapter = f"jobs/{JOB}/adapter_model.safetensors"
    assert store.files[adapter].startswith(b"so far")
    # And what a later attempt goes on from, of the very step that the adapter is of; the adapter goes first.
    (checkpoint,) = bench.mesh.scheduler.committed
    state = f"jobs/{JOB}/checkpoints/{checkpoint.step}/state.json"
    assert store.files[adapter] == f"so far {checkpoint.step}".encode()
    assert store.files[state] == f"step {checkpoint.step}".encode()
    assert store.requests.index(("PUT", adapter)) < store.requests.index(("PUT", state))


async def test_a_stop_keeps_its_time_when_the_checkpoint_cannot_be_published(bench: Bench) -> None:
    bench.script = "obedient"
    tools = replace(bench.tools, limits=replace(bench.tools.limits, stop_total=1.5, last_checkpoint=30.0))
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, tools))
    await assert_eventually(lambda: attempt.progress.step >= 2)
    bench.mesh.scheduler.refused_checkpoints = 1000

    bench.mesh.scheduler.orders.set()
    start = time.monotonic()

    assert await asyncio.wait_for(running, 60) == "STOPPED"
    # And not the 30 s that the last checkpoint of a process that died is given.
    assert time.monotonic() - start < 20
    assert bench.mesh.scheduler.completed[0].files
    assert not bench.mesh.scheduler.committed


async def test_the_last_checkpoint_of_a_process_that_died_is_published(bench: Bench) -> None:
    bench.mesh.scheduler.refused_checkpoints = 1

    await bench.run("crash_after_checkpoint")

    assert reason(bench) == FailReason.CRASHED
    assert [checkpoint.step for checkpoint in bench.mesh.scheduler.committed] == [2]


async def test_a_checkpoint_that_is_damaged_before_it_is_published_does_not_count(bench: Bench) -> None:
    assert await bench.run("damager") == "COMPLETED"

    assert not bench.mesh.scheduler.committed
    logged = [report.log.text for report in bench.mesh.scheduler.reports() if report.HasField("log")]
    assert any("step 1 could not be published: it is not on the disk any more" in line for line in logged)


@pytest.mark.parametrize("script", ["deaf", "chatty"])
async def test_a_child_that_ignores_a_stop_is_killed_after_the_grace(bench: Bench, script: str) -> None:
    bench.script = script
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, bench.tools))
    await assert_eventually(lambda: attempt.progress.step >= 1)

    bench.mesh.scheduler.orders.set()
    await asyncio.wait_for(running, 60)

    assert reason(bench) == FailReason.STALLED
    assert not bench.children[0].is_running


async def test_a_stop_before_training_completes_empty(bench: Bench) -> None:
    bench.mesh.scheduler.orders.set()

    assert await bench.run("normal") == "STOPPED"

    assert not bench.children
    assert not bench.mesh.scheduler.completed[0].files


async def test_a_child_that_breathes_and_does_not_move_is_killed(bench: Bench) -> None:
    await bench.run("hung")

    assert reason(bench) == FailReason.STALLED
    assert "step 2" in bench.mesh.scheduler.failed[0].message


async def test_a_crash_tells_its_last_words_without_secrets_and_paths(bench: Bench) -> None:
    await bench.run("crash")

    message = bench.mesh.scheduler.failed[0].message
    assert reason(bench) == FailReason.CRASHED
    assert "SIGSEGV" in message
    assert "Segmentation fault" in message
    assert "hunter2" not in message
    assert str(bench.folder) not in message


async def test_typed_failures_keep_their_reason_and_next_step(bench: Bench) -> None:
    await bench.run("out_of_memory")

    assert reason(bench) == FailReason.OUT_OF_MEMORY
    assert bench.mesh.scheduler.failed[0].message == "no memory; lower batch_size"


async def test_parameters_that_contradict_each_other_are_told_as_such(bench: Bench) -> None:
    lora = training_parameters_pb2.LoraParameters(temporal_groups=[training_parameters_pb2.MODULE_GROUP_VISION])
    await bench.run("normal", lora=lora)

    assert reason(bench) == FailReason.BAD_PARAMETERS
    assert "lora.temporal_groups" in bench.mesh.scheduler.failed[0].message


async def test_a_job_of_a_newer_contract_is_left_to_a_newer_trainer(bench: Bench) -> None:
    await bench.run("normal", base_sharing=999)

    assert reason(bench) == FailReason.DEVICE_UNFIT
    assert "value 999 of base_sharing" in bench.mesh.scheduler.failed[0].message


async def test_a_decode_process_that_did_not_start_is_no_fault_of_the_job(bench: Bench) -> None:
    await bench.run("undecoding")

    assert reason(bench) == FailReason.CRASHED
    assert "decord did not start" in bench.mesh.scheduler.failed[0].message


async def test_a_child_that_speaks_nonsense_counts_as_crashed(bench: Bench) -> None:
    await bench.run("nonsense")

    assert reason(bench) == FailReason.CRASHED


async def test_an_adapter_that_differs_from_its_manifest_is_not_published(bench: Bench) -> None:
    await bench.run("liar")

    assert reason(bench) == FailReason.CRASHED
    assert not any(key.startswith(f"jobs/{JOB}/") for key in bench.mesh.store.files)


async def test_a_store_that_stays_away_ends_the_attempt_as_storage_unavailable(bench: Bench) -> None:
    bench.mesh.store.faults = [("PUT", 503)] * 1000

    await bench.run("normal")

    assert reason(bench) == FailReason.STORAGE_UNAVAILABLE


async def test_short_troubles_of_the_store_are_borne(bench: Bench) -> None:
    bench.mesh.store.faults = [("GET", 503), ("GET", "truncate"), ("GET", "corrupt"), ("PUT", 503), ("PUT", 403)]

    assert await bench.run("normal") == "COMPLETED"


async def test_expired_urls_of_clips_are_renewed(bench: Bench) -> None:
    bench.mesh.catalog.has_expired_urls = True

    assert await bench.run("normal") == "COMPLETED"


async def test_a_cut_snapshot_is_not_trained_from(bench: Bench) -> None:
    bench.mesh.catalog.is_cut = True

    await bench.run("normal")

    assert reason(bench) == FailReason.STORAGE_UNAVAILABLE
    assert not bench.children


async def test_a_second_attempt_finds_model_and_clips_in_the_cache(bench: Bench) -> None:
    await bench.run("normal")
    fetched = [path for method, path in bench.mesh.store.requests if method == "GET"]
    await bench.run("normal")

    assert sorted(fetched) == ["clips/a/one.mp4", "clips/two.mp4", "model/config.json", "model/model.safetensors"]
    assert [path for method, path in bench.mesh.store.requests if method == "GET"] == fetched


async def test_the_scheduler_may_be_away_while_the_attempt_ends(bench: Bench) -> None:
    bench.script = "normal"
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, bench.tools))
    await assert_eventually(lambda: bench.children)
    bench.mesh.scheduler.is_away = True
    await assert_eventually(lambda: attempt.progress.phase == "publishing")
    missed = bench.mesh.scheduler.missed
    await assert_eventually(lambda: bench.mesh.scheduler.missed > missed)
    bench.mesh.scheduler.is_away = False

    assert await asyncio.wait_for(running, 60) == "COMPLETED"
    assert len(bench.mesh.scheduler.completed) == 1


async def test_a_trainers_own_fault_ends_the_attempt_and_not_the_trainer(bench: Bench) -> None:
    async def broken(folder):
        raise RuntimeError("a bug")

    tools = replace(bench.tools, launch={Recipe.QLORA: broken})
    await run_attempt(await bench.claim(), tools)

    assert reason(bench) == FailReason.CRASHED
    assert "RuntimeError" in bench.mesh.scheduler.failed[0].message


async def test_a_fault_in_publishing_a_checkpoint_costs_that_checkpoint_alone(bench: Bench) -> None:
    class Faulty(type(bench.tools.scheduler)):
        async def commit_checkpoint(self, grant, step, files, eval_loss):
            raise RuntimeError("a bug")

    faulty = Faulty.__new__(Faulty)
    faulty.__dict__.update(vars(bench.tools.scheduler))
    bench.script = "saver"
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, replace(bench.tools, scheduler=faulty)))
    await assert_eventually(lambda: any("a fault of the trainer: RuntimeError" in line for line in logged(bench)))
    step = attempt.progress.step
    await assert_eventually(lambda: attempt.progress.step > step)
    attempt.drain_ordered.set()
    await asyncio.wait_for(running, 60)

    assert reason(bench) == FailReason.PREEMPTED


async def test_the_last_checkpoint_before_a_job_is_given_back_gets_a_second_try(bench: Bench) -> None:
    faults: list[int] = []

    class OnceFaulty(type(bench.tools.scheduler)):
        async def commit_checkpoint(self, grant, step, files, eval_loss):
            if not faults:
                faults.append(step)
                raise RuntimeError("a bug")
            await super().commit_checkpoint(grant, step, files, eval_loss)

    faulty = OnceFaulty.__new__(OnceFaulty)
    faulty.__dict__.update(vars(bench.tools.scheduler))
    bench.script = "obedient"
    attempt = await bench.claim()
    running = asyncio.create_task(run_attempt(attempt, replace(bench.tools, scheduler=faulty)))
    await assert_eventually(lambda: attempt.progress.step > 0)
    attempt.order_drain()
    await asyncio.wait_for(running, 60)

    assert reason(bench) == FailReason.PREEMPTED
    assert faults
    assert [saved.step for saved in bench.mesh.scheduler.committed] == faults


async def test_the_child_sees_no_credentials_and_works_in_its_folder(bench: Bench, monkeypatch) -> None:
    for name in ("TRAINER_JOIN_SECRET", "AWS_SECRET_ACCESS_KEY", "POSTGRES_DSN", "NATS_PASSWORD", "HF_TOKEN"):
        monkeypatch.setenv(name, "canary")

    assert await bench.run("environment") == "COMPLETED"

    lines = [report.log.text for report in bench.mesh.scheduler.reports() if report.HasField("log")]
    surroundings = next(json.loads(line) for line in lines if line.startswith("{"))
    assert surroundings["cwd"] == str(bench.folder / "jobs" / f"{JOB}-1")
    secret = [name for name in surroundings["names"] if any(word in name for word in ("SECRET", "DSN", "PASSWORD"))]
    assert not secret
    assert "HF_TOKEN" not in surroundings["names"]


async def test_an_end_that_the_scheduler_refuses_is_told_as_a_failure(bench: Bench) -> None:
    class Picky(type(bench.tools.scheduler)):
        async def complete_attempt(self, grant, files, progress, early_end):
            raise CallRefusedError("FIELD_INVALID", "no such path")

    picky = Picky.__new__(Picky)
    picky.__dict__.update(vars(bench.tools.scheduler))
    await run_attempt(await bench.claim(), replace(bench.tools, scheduler=picky))

    assert reason(bench) == FailReason.INTERNAL
    assert "FIELD_INVALID" in bench.mesh.scheduler.failed[0].message
