"""Lists: complete, stable, and page tokens that nobody can make."""

from __future__ import annotations

import math
from typing import Any

import grpc
from reeltune.scheduler.v1 import training_history_pb2 as history_pb
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1 import worker_service_pb2

from meshkit.ids import new_id
from tests.rpc.scheduler.conftest import NewUser
from tests.rpc.scheduler.scheduler_mesh import Replica, Trainer, User, failure_of, state_name

CODE = grpc.StatusCode


async def _list(user: User, **fields: Any) -> pb.ListTrainingJobsResponse:
    return await user.training.ListTrainingJobs(pb.ListTrainingJobsRequest(**fields), metadata=user.metadata)


async def test_pages_are_complete_and_newest_first(user: User) -> None:
    jobs = [(await user.create()).id for _ in range(7)]
    seen: list[str] = []
    token = ""
    while True:
        page = await _list(user, page_size=3, page_token=token)
        seen.extend(job.id for job in page.jobs)
        await user.create(name="between")
        token = page.next_page_token
        if not token:
            break
    assert seen == jobs[::-1]
    assert len((await _list(user, page_size=100_000)).jobs) == 10


async def test_page_tokens_are_bound_and_cannot_be_made(user: User, new_user: NewUser) -> None:
    other = new_user()
    for one in (user, other):
        for _ in range(3):
            await one.create(name="job")
    token = (await _list(user, page_size=1)).next_page_token
    flipped = token[:10] + ("A" if token[10] != "A" else "B") + token[11:]
    for caller, fields in (
        (other, {"page_token": token}),
        (user, {"page_token": token, "filter": "state = QUEUED"}),
        (user, {"page_token": flipped}),
        (user, {"page_token": "nonsense"}),
        (user, {"page_token": token[:-4]}),
    ):
        failure = await failure_of(_list(caller, page_size=1, **fields))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    assert (await failure_of(_list(user, page_size=-1))).reason == "FIELD_INVALID"


async def test_filters(user: User, catalog: Any) -> None:
    other_model = catalog.add_model(user.id)
    left = await user.create(name="Left turns")
    right = await user.create(name='right "turns"', model_id=other_model)
    await user.stop(right.id)

    async def ids(text: str) -> list[str]:
        return [job.id for job in (await _list(user, filter=text)).jobs]

    assert await ids("") == await ids('name : "turns"') == [right.id, left.id]
    assert await ids("state = QUEUED") == [left.id]
    assert await ids("state != QUEUED AND state != RUNNING") == [right.id]
    assert await ids("state = QUEUED AND state = STOPPED") == []
    assert await ids(f'model_id = "{other_model}" AND name : "TURNS"') == [right.id]
    assert await ids(f'dataset_id = "{user.dataset_id}"') == [right.id, left.id]
    assert await ids('name = "right \\"turns\\""') == [right.id]
    assert await ids('name : "x\' OR 1=1 --"') == []


async def test_a_filter_that_cannot_be_read_is_refused(user: User) -> None:
    for text in (
        "state = Running",
        "owner_id = u",
        "name : ",
        "state : RUNNING",
        "name = a OR name = b",
        'name : "\0"',
    ):
        failure = await failure_of(_list(user, filter=text))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FILTER_INVALID"), text


async def test_events_logs_and_metrics_page_by_sequence(user: User, trainer: Trainer) -> None:
    job = await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
        for step in range(1, 8):
            await stream.metrics(step, loss=1 / step, weird=float("nan"))
            await stream.report(log={"level": 1 + step % 4, "text": f"line {step}"})
        await stream.acked(await stream.progress(7))
    training, metadata = user.training, user.metadata

    async def pages(method: Any, request_type: Any, name: str, **fields: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            request = request_type(job_id=job.id, page_size=2, page_token=token, **fields)
            response = await method(request, metadata=metadata)
            found.extend(getattr(response, name))
            token = response.next_page_token
            if not token:
                return found

    events = await pages(training.ListEvents, history_pb.ListEventsRequest, "events")
    assert [event.sequence for event in events] == list(range(1, (await user.get(job.id)).sequence + 1))
    assert [state_name(event.state_change.to) for event in events if event.HasField("state_change")] == [
        "QUEUED",
        "STARTING",
        "RUNNING",
    ]
    points = await pages(training.ListMetrics, history_pb.ListMetricsRequest, "points")
    assert [point.metrics.step for point in points] == list(range(1, 8))
    assert points[3].metrics.values["loss"] == 0.25
    assert points[3].metrics.values["weird"] != points[3].metrics.values["weird"]
    lines = await pages(training.ListLogs, history_pb.ListLogsRequest, "lines")
    assert [line.log.text for line in lines] == [f"line {step}" for step in range(1, 8)]
    warnings = await pages(training.ListLogs, history_pb.ListLogsRequest, "lines", min_level=3)
    assert [line.log.text for line in warnings] == ["line 2", "line 3", "line 6", "line 7"]
    first = await training.ListLogs(history_pb.ListLogsRequest(job_id=job.id, page_size=1), metadata=metadata)
    for request, method in (
        (history_pb.ListMetricsRequest(job_id=job.id, page_token=first.next_page_token), training.ListMetrics),
        (history_pb.ListLogsRequest(job_id=job.id, page_token=first.next_page_token, min_level=3), training.ListLogs),
    ):
        assert (await failure_of(method(request, metadata=metadata))).reason == "PAGE_TOKEN_INVALID"


async def test_metrics_come_in_buckets_when_asked_for(user: User, new_user: NewUser, trainer: Trainer) -> None:
    job = await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
        for step in range(1, 9):
            number = await stream.metrics(step, loss=1 / step, **({"eval_loss": math.nan} if step == 8 else {}))
        await stream.acked(number)

    async def series(who: User = user, **fields: Any) -> Any:
        request = history_pb.ListMetricsRequest(job_id=job.id, **fields)
        return await who.training.ListMetrics(request, metadata=who.metadata)

    answer = await series(max_points=3)
    assert not answer.points
    assert not answer.next_page_token
    rare, loss = answer.series
    assert (rare.name, loss.name) == ("eval_loss", "loss")
    assert [(b.first_step, b.last_step, b.min, b.max, b.last, b.count, b.nan_count) for b in loss.buckets] == [
        (1, 3, 1 / 3, 1, 1 / 3, 3, 0),
        (4, 6, 1 / 6, 1 / 4, 1 / 6, 3, 0),
        (7, 8, 1 / 8, 1 / 7, 1 / 8, 2, 0),
    ]
    (bucket,) = rare.buckets
    assert (bucket.first_step, bucket.count, bucket.nan_count) == (8, 1, 1)
    assert not bucket.HasField("min")
    assert math.isnan(bucket.last)
    assert [each.name for each in (await series(max_points=10**6, names=["loss", "x"])).series] == ["loss"]
    assert [bucket.count for bucket in (await series(max_points=10**6)).series[1].buckets] == [1] * 8
    token = (await series(page_size=2)).next_page_token
    assert (await failure_of(series(max_points=5, page_token=token))).reason == "FIELD_INVALID"
    assert (await failure_of(series(new_user(), max_points=5))).reason == "JOB_NOT_FOUND"


async def test_workers_are_shown_to_all_and_their_jobs_to_admins(
    replica: Replica, user: User, new_user: NewUser
) -> None:
    trainers = [await Trainer(replica).register(name=f"host-{number}") for number in range(3)]
    job = await user.create()
    await trainers[1].must_claim()
    workers, token = [], ""
    while True:
        request = worker_service_pb2.ListWorkersRequest(page_size=2, page_token=token)
        response = await replica.workers.ListWorkers(request, metadata=user.metadata)
        workers.extend(response.workers)
        token = response.next_page_token
        if not token:
            break
    assert [(worker.name, worker.state) for worker in workers] == [("host-0", 1), ("host-1", 2), ("host-2", 1)]
    assert not any(worker.job_ids for worker in workers)
    request = worker_service_pb2.GetWorkerRequest(worker_id=trainers[1].worker_id)
    admin = new_user("user", "admin")
    shown = (await replica.workers.GetWorker(request, metadata=admin.metadata)).worker
    assert (list(shown.job_ids), shown.device.name) == ([job.id], "test device")
    request = worker_service_pb2.GetWorkerRequest(worker_id=new_id("wrk"))
    failure = await failure_of(replica.workers.GetWorker(request, metadata=user.metadata))
    assert (failure.code, failure.reason) == (CODE.NOT_FOUND, "WORKER_NOT_FOUND")


async def test_a_trainer_that_registers_again_keeps_its_id(replica: Replica, user: User) -> None:
    trainer = await Trainer(replica).register()
    first = trainer.worker_id
    await trainer.register(name="renamed")
    assert trainer.worker_id == first
    request = worker_service_pb2.GetWorkerRequest(worker_id=first)
    assert (await replica.workers.GetWorker(request, metadata=user.metadata)).worker.name == "renamed"


async def test_stopping(user: User, trainer: Trainer) -> None:
    queued = await user.create()
    assert state_name((await user.stop(queued.id)).state) == "STOPPED"
    failure = await failure_of(user.stop(queued.id))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "JOB_STATE_CONFLICT")
    assert (failure.metadata["state"], failure.metadata["allowed"]) == (
        "STOPPED",
        "QUEUED, STARTING, RUNNING, STOPPING",
    )
    running = await user.create()
    attempt = await trainer.must_claim()
    assert attempt.job_id == running.id
    assert state_name((await user.stop(running.id)).state) == "STOPPING"
    assert (await user.stop(running.id)).sequence == 3, "stopping twice changes nothing"
    assert await attempt.fail("CRASHED", "gone") == "STOPPED"


async def test_failing(user: User, trainer: Trainer) -> None:
    job = await user.create()
    attempt = await trainer.must_claim()
    for reason in ("STOP_REQUESTED", "LEASE_LOST", "QUARANTINED"):
        failure = await failure_of(attempt.fail(reason))
        assert (failure.reason, failure.metadata["field"]) == ("FIELD_INVALID", "reason")
    assert await attempt.fail("OUT_OF_MEMORY", "needs 9 GB, has 8 GB") == "FAILED"
    assert await attempt.fail("OUT_OF_MEMORY", "needs 9 GB, has 8 GB") == "FAILED", "may be repeated"
    failed = await user.get(job.id)
    assert failed.message.startswith("needs 9 GB, has 8 GB: lower batch_size")
    assert len(failed.message.encode()) <= 1024
    assert failed.HasField("end_time")
