"""Quotas as admins set them and users meet them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from reeltune.scheduler.v1 import queue_status_pb2, quota_pb2
from reeltune.scheduler.v1 import quota_service_pb2 as pb

from meshkit.ids import new_id
from meshkit.testing import assert_eventually
from tests.rpc.scheduler.conftest import NewUser, StartReplica
from tests.rpc.scheduler.scheduler_mesh import Replica, Trainer, User, failure_of

CODE = grpc.StatusCode


@pytest.fixture
def admin(new_user: NewUser) -> User:
    return new_user("user", "admin")


async def update(admin: User, user_id: str, *, etag: str = "", request_id: str = "", **limits: Any) -> quota_pb2.Quota:
    given = {name: value for name, value in limits.items() if value is not None}
    request = pb.UpdateQuotaRequest(
        quota=quota_pb2.Quota(user_id=user_id, etag=etag, **given),
        update_mask=FieldMask(paths=list(limits)),
        request_id=request_id,
    )
    return (await admin.replica.quotas.UpdateQuota(request, metadata=admin.metadata)).quota


async def mine(user: User) -> quota_pb2.Quota:
    return (await user.replica.quotas.GetMyQuota(pb.GetMyQuotaRequest(), metadata=user.metadata)).quota


async def test_without_quotas_there_are_no_limits(user: User) -> None:
    await user.create()
    quota = await mine(user)
    assert quota.is_default
    assert quota.user_id == user.id
    assert not any(quota.HasField(name) for name in ("running_jobs", "queued_jobs", "storage_bytes"))
    assert quota.usage.queued_jobs == 1
    assert not quota.HasField("update_time")


async def test_a_submission_beyond_the_quota_says_what_how_much_and_when(
    admin: User, user: User, trainer: Trainer
) -> None:
    await user.create()
    attempt = await trainer.must_claim()
    await update(admin, "default", queued_jobs=1)
    await user.create()
    failure = await failure_of(user.create())
    assert (failure.code, failure.reason) == (CODE.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert failure.metadata == {"quota": "queued_jobs", "limit": "1", "used": "1"}
    assert failure.retry_after is None, "nobody knows how long the running job takes"
    async with attempt.attach() as stream:
        await stream.started(100)
        await stream.acked(await stream.progress(50, total_steps=100, fraction=0.5))

        async def retry_after() -> timedelta | None:
            return (await failure_of(user.create())).retry_after

        # Each replica looks at the queue at most once a second.
        known = await assert_eventually(retry_after)
    assert known is not None
    assert known.total_seconds() >= 1


async def test_a_running_quota_makes_a_job_wait_and_say_so(admin: User, user: User, replica: Replica) -> None:
    await update(admin, user.id, running_jobs=1)
    trainers = [await Trainer(replica).register() for _ in range(2)]
    await user.create()
    waiting = await user.create()
    await trainers[0].must_claim()
    assert await trainers[1].claim() is None
    queue = (await user.get(waiting.id)).queue
    assert queue.reason == queue_status_pb2.WAIT_REASON_RUNNING_QUOTA
    await update(admin, user.id, running_jobs=2)
    assert (await trainers[1].must_claim()).job_id == waiting.id


async def test_an_update_takes_what_the_mask_names_and_honours_the_etag(admin: User) -> None:
    user_id = new_id("usr")
    first = await update(admin, user_id, running_jobs=3, storage_bytes=10**12)
    assert (first.running_jobs, first.storage_bytes, first.etag) == (3, 10**12, "r1")
    second = await update(admin, user_id, etag=first.etag, running_jobs=None, device_hours_per_day=1.5)
    assert not second.HasField("running_jobs")
    assert (second.device_hours_per_day, second.storage_bytes) == (1.5, 10**12)
    failure = await failure_of(update(admin, user_id, etag=first.etag, running_jobs=1))
    assert (failure.code, failure.reason) == (CODE.ABORTED, "ETAG_MISMATCH")
    for paths in ([], ["usage"], ["running_jobs", "etag"]):
        request = pb.UpdateQuotaRequest(quota=quota_pb2.Quota(user_id=user_id), update_mask=FieldMask(paths=paths))
        failure = await failure_of(admin.replica.quotas.UpdateQuota(request, metadata=admin.metadata))
        assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FIELD_INVALID")
        assert failure.field_violations[0].field == "update_mask"


@pytest.mark.parametrize(
    "limits", [{"running_jobs": -1}, {"device_hours_per_day": float("nan")}, {"storage_bytes": -5}]
)
async def test_nonsense_is_refused(admin: User, limits: dict[str, Any]) -> None:
    failure = await failure_of(update(admin, "default", **limits))
    assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_an_update_is_safe_to_repeat(admin: User, start: StartReplica) -> None:
    request_id = str(uuid4())
    first = await update(admin, "default", request_id=request_id, running_jobs=3)
    await update(admin, "default", running_jobs=4)
    again = await update(admin.at(await start()), "default", request_id=request_id, running_jobs=3)
    assert again == first
    listed = await admin.replica.quotas.ListQuotas(pb.ListQuotasRequest(), metadata=admin.metadata)
    assert [quota.running_jobs for quota in listed.quotas] == [4]
    failure = await failure_of(update(admin, "default", request_id=request_id, running_jobs=5))
    assert (failure.code, failure.reason) == (CODE.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


async def delete(admin: User, user_id: str, **fields: str) -> quota_pb2.Quota:
    request = pb.DeleteQuotaRequest(user_id=user_id, **fields)
    return (await admin.replica.quotas.DeleteQuota(request, metadata=admin.metadata)).quota


async def test_without_own_limits_those_of_everybody_hold_again(admin: User, user: User, trainer: Trainer) -> None:
    await update(admin, "default", running_jobs=4, queued_jobs=7)
    own = await update(admin, user.id, queued_jobs=1)
    await user.create()
    assert (await failure_of(user.create())).reason == "QUOTA_EXCEEDED"

    failure = await failure_of(delete(admin, user.id, etag="r0"))
    assert (failure.code, failure.reason) == (CODE.ABORTED, "ETAG_MISMATCH")
    now = await delete(admin, user.id, etag=own.etag)

    assert (now.user_id, now.is_default, now.running_jobs, now.queued_jobs) == (user.id, True, 4, 7)
    seen = await mine(user)
    assert (seen.is_default, seen.running_jobs, seen.queued_jobs) == (True, 4, 7)
    await user.create()
    listed = await admin.replica.quotas.ListQuotas(pb.ListQuotasRequest(), metadata=admin.metadata)
    assert [quota.user_id for quota in listed.quotas] == ["default"]
    assert (await delete(admin, user.id)).etag == now.etag, "there is nothing left to take away"
    # What everybody has changes for this one too, and own limits start as its copy again, with an etag never seen.
    await update(admin, "default", running_jobs=0)
    assert await trainer.claim() is None
    again = await update(admin, user.id, running_jobs=1)
    assert (again.is_default, again.queued_jobs) == (False, 7)
    assert again.etag not in {own.etag, now.etag}
    await trainer.must_claim()


async def test_without_limits_of_everybody_there_are_none(admin: User, user: User) -> None:
    await update(admin, "default", queued_jobs=0)
    assert (await failure_of(user.create())).reason == "QUOTA_EXCEEDED"
    assert not (await delete(admin, "default")).HasField("queued_jobs")
    await user.create()
    assert not (await mine(user)).HasField("queued_jobs")


async def test_taking_a_quota_away_is_safe_to_repeat(admin: User, start: StartReplica) -> None:
    user_id, request_id = new_id("usr"), str(uuid4())
    await update(admin, user_id, running_jobs=3)
    first = await delete(admin, user_id, request_id=request_id)
    later = await update(admin, user_id, running_jobs=5)
    assert await delete(admin.at(await start()), user_id, request_id=request_id) == first
    request = pb.GetQuotaRequest(user_id=user_id)
    held = (await admin.replica.quotas.GetQuota(request, metadata=admin.metadata)).quota
    assert (held.running_jobs, held.etag) == (5, later.etag)


async def test_the_list_is_complete_page_by_page(admin: User) -> None:
    users = sorted([new_id("usr") for _ in range(4)])
    for user_id in (*users, "default"):
        await update(admin, user_id, queued_jobs=1)
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListQuotasRequest(page_size=2, page_token=token)
        page = await admin.replica.quotas.ListQuotas(request, metadata=admin.metadata)
        found += [quota.user_id for quota in page.quotas]
        token = page.next_page_token
        if not token:
            break
    assert found == ["default", *users]
    failure = await failure_of(
        admin.replica.quotas.ListQuotas(pb.ListQuotasRequest(page_token="forged"), metadata=admin.metadata)
    )
    assert failure.reason == "PAGE_TOKEN_INVALID"


async def test_users_see_their_own_only(admin: User, user: User) -> None:
    quotas = user.replica.quotas
    for call in (
        quotas.GetQuota(pb.GetQuotaRequest(user_id=admin.id), metadata=user.metadata),
        quotas.ListQuotas(pb.ListQuotasRequest(), metadata=user.metadata),
        update(user, user.id, running_jobs=100),
        delete(user, user.id),
    ):
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (CODE.PERMISSION_DENIED, "ROLE_REQUIRED")
    answer = await quotas.GetQuota(pb.GetQuotaRequest(user_id=user.id), metadata=admin.metadata)
    assert answer.quota == await mine(user)
