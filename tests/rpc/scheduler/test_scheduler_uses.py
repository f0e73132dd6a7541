"""What datasets and models are used for, told to whom it concerns."""

from __future__ import annotations

import grpc
from reeltune.catalog.v1 import visibility_pb2
from reeltune.scheduler.v1 import use_service_pb2 as pb

from meshkit.ids import new_id
from tests.rpc.scheduler.conftest import NewUser
from tests.rpc.scheduler.scheduler_mesh import SmallCatalog, Trainer, User, failure_of, state_name


async def uses(user: User, entry_id: str, **fields: object) -> pb.ListUsesResponse:
    request = pb.ListUsesRequest(entry_id=entry_id, **fields)
    return await user.replica.uses.ListUses(request, metadata=user.metadata)


def owned(user: User, catalog: SmallCatalog) -> User:
    """Gives the user a dataset and a model that they own and share."""
    dataset_id, model_id = catalog.add_dataset(user.id), catalog.add_model(user.id)
    for thing in (catalog.datasets[dataset_id], catalog.models[model_id]):
        thing.visibility = visibility_pb2.VISIBILITY_SHARED
    return User(user.replica, user.id, user.metadata, model_id, dataset_id)


async def test_a_user_sees_their_jobs_by_what_they_use(user: User, catalog: SmallCatalog, trainer: Trainer) -> None:
    owner = owned(user, catalog)
    ended = await owner.create(name="ended")
    await owner.stop(ended.id)
    live = await owner.create(name="live")
    await user.create(name="of another dataset")
    for entry_id in (owner.dataset_id, owner.model_id):
        found = (await uses(owner, entry_id)).uses
        assert [(use.job_id, use.name, state_name(use.state)) for use in found] == [
            (live.id, "live", "QUEUED"),
            (ended.id, "ended", "STOPPED"),
        ]
        assert [use.job_id for use in (await uses(owner, entry_id, live_only=True)).uses] == [live.id]
    await trainer.must_claim()
    assert [state_name(use.state) for use in (await uses(owner, owner.model_id, live_only=True)).uses] == ["STARTING"]
    first = await uses(owner, owner.dataset_id, page_size=1)
    rest = await uses(owner, owner.dataset_id, page_size=1, page_token=first.next_page_token)
    assert ([use.job_id for use in rest.uses], rest.next_page_token) == ([ended.id], "")
    stale = await failure_of(uses(owner, owner.dataset_id, live_only=True, page_token=first.next_page_token))
    assert stale.reason == "PAGE_TOKEN_INVALID"


async def test_of_others_jobs_the_owner_learns_how_many_and_nobody_which(
    user: User, new_user: NewUser, catalog: SmallCatalog
) -> None:
    owner, other = owned(user, catalog), new_user()
    borrower = User(other.replica, other.id, other.metadata, owner.model_id, owner.dataset_id)
    mine = await borrower.create(name="a secret")
    await borrower.stop((await borrower.create()).id)
    for entry_id in (owner.dataset_id, owner.model_id):
        seen = await uses(owner, entry_id)
        assert (list(seen.uses), seen.live_jobs_of_others) == ([], 1)
        seen = await uses(borrower, entry_id, live_only=True)
        assert ([use.job_id for use in seen.uses], seen.live_jobs_of_others) == ([mine.id], 0)
    await owner.create()
    assert (await uses(borrower, owner.dataset_id)).live_jobs_of_others == 0


async def test_what_a_user_may_not_see_answers_like_what_is_not_there(
    user: User, new_user: NewUser, catalog: SmallCatalog
) -> None:
    stranger = new_user()
    for entry_id, absent, reason in (
        (catalog.add_dataset(user.id), new_id("ds"), "DATASET_NOT_FOUND"),
        (catalog.add_model(user.id), new_id("mdl"), "MODEL_NOT_FOUND"),
    ):
        for asked in (entry_id, absent):
            failure = await failure_of(uses(stranger, asked))
            assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    assert (await failure_of(uses(stranger, "job_1"))).reason == "FIELD_INVALID"
