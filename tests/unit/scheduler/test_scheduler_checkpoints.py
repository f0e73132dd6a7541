"""Which checkpoints of a job are kept, and how a large file is cut into parts."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.domain.checkpoints import CheckpointName, RecordedCheckpoint, kept_checkpoints
from scheduler_svc.domain.files import MAX_FILE_BYTES, StoredFile
from scheduler_svc.domain.parameters import CheckpointPolicy
from scheduler_svc.domain.uploads import MAX_PARTS, Upload, part_bytes_for
from trainer_svc.qlora.checkpoint_folders import KeepRule

LOSSES = st.none() | st.floats(allow_nan=True, allow_infinity=True)
NAMES = st.builds(CheckpointName, st.integers(1, 4), st.integers(0, 60))
RECORDED = st.lists(st.builds(RecordedCheckpoint, NAMES, LOSSES), unique_by=lambda each: each.name, max_size=25)
POLICIES = st.builds(CheckpointPolicy, st.integers(1, 100) | st.integers(1, 4), st.booleans(), st.integers(0, 20))


def named(*steps: int, attempt: int = 1) -> frozenset[CheckpointName]:
    return frozenset(CheckpointName(attempt, step) for step in steps)


def recorded(**losses: float | None) -> list[RecordedCheckpoint]:
    """`s5=0.3`: the checkpoint of step 5 with that loss."""
    return [RecordedCheckpoint(CheckpointName(1, int(step[1:])), loss) for step, loss in losses.items()]


def test_the_newest_stay_and_older_ones_go() -> None:
    found = recorded(s2=None, s4=None, s6=None, s8=None)
    assert kept_checkpoints(found, CheckpointPolicy(keep_last=3)) == named(4, 6, 8)
    assert kept_checkpoints(found, CheckpointPolicy(keep_last=1)) == named(8)


def test_the_best_stays_however_old_it_is() -> None:
    found = recorded(s2=0.5, s4=0.2, s6=0.2, s8=0.9, s10=math.nan, s12=None)
    assert kept_checkpoints(found, CheckpointPolicy(keep_last=1, keep_best=True)) == named(6, 12)


def test_every_so_many_steps_one_stays_and_of_two_attempts_the_later_ones() -> None:
    found = [*recorded(s3=None, s5=None, s10=None), RecordedCheckpoint(CheckpointName(2, 10))]
    kept = kept_checkpoints(found, CheckpointPolicy(keep_last=1, keep_every_steps=5))
    assert kept == named(5) | named(10, attempt=2)


def test_a_later_attempt_that_passed_a_damaged_one_over_has_the_newest() -> None:
    found = [*recorded(s10=None, s20=None), RecordedCheckpoint(CheckpointName(2, 12))]
    assert kept_checkpoints(found, CheckpointPolicy(keep_last=1)) == named(12, attempt=2)


@given(RECORDED, POLICIES)
def test_the_newest_always_stays_and_nothing_is_invented(
    found: list[RecordedCheckpoint], policy: CheckpointPolicy
) -> None:
    kept = kept_checkpoints(found, policy)
    names = sorted((each.name for each in found), reverse=True)
    assert kept <= set(names)
    assert set(names[: policy.keep_last]) <= kept
    bound = policy.keep_last + policy.keep_best
    extra = [name for name in kept if policy.keep_every_steps and name.step % policy.keep_every_steps == 0]
    assert len(kept) <= bound + len({name.step for name in extra})


@given(RECORDED, POLICIES)
def test_dropping_is_settled_after_once(found: list[RecordedCheckpoint], policy: CheckpointPolicy) -> None:
    kept = kept_checkpoints(found, policy)
    assert kept_checkpoints([each for each in found if each.name in kept], policy) == kept


@given(RECORDED, POLICIES)
def test_one_by_one_as_they_come_the_best_is_never_lost(
    found: list[RecordedCheckpoint], policy: CheckpointPolicy
) -> None:
    standing: list[RecordedCheckpoint] = []
    for each in sorted(found, key=lambda each: each.name):
        standing.append(each)
        kept = kept_checkpoints(standing, policy)
        standing = [one for one in standing if one.name in kept]
    losses = [each.eval_loss for each in found if each.eval_loss is not None and math.isfinite(each.eval_loss)]
    if policy.keep_best and losses:
        assert min(losses) in [each.eval_loss for each in standing]


@given(st.dictionaries(st.integers(0, 60), LOSSES, max_size=25), POLICIES)
def test_the_trainers_own_folder_keeps_what_the_scheduler_keeps_of_one_attempt(
    losses: dict[int, float | None], policy: CheckpointPolicy
) -> None:
    rule = KeepRule(policy.keep_last, policy.keep_best, policy.keep_every_steps)
    found = [RecordedCheckpoint(CheckpointName(1, step), loss) for step, loss in losses.items()]
    assert {name.step for name in kept_checkpoints(found, policy)} == rule.kept(losses)


@given(st.integers(1, MAX_FILE_BYTES), st.integers(5 * 1024**2, 1024**3))
def test_parts_make_up_the_file_in_no_more_parts_than_a_store_takes(size: int, wanted: int) -> None:
    upload = Upload("u", size, "ab" * 32, part_bytes_for(size, wanted))
    parts = upload.parts
    assert len(parts) <= MAX_PARTS
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert sum(part.size_bytes for part in parts) == size
    assert all(part.size_bytes == upload.part_bytes >= wanted for part in parts[:-1])
    assert all(part.offset_bytes == (part.number - 1) * upload.part_bytes for part in parts)


@given(st.integers(1, 200), st.integers(1, 20), st.dictionaries(st.integers(1, 30), st.integers(0, 30)))
def test_a_part_of_another_length_counts_as_missing(size: int, part_bytes: int, arrived: dict[int, int]) -> None:
    upload = Upload("u", size, "ab" * 32, part_bytes)
    missing = upload.missing(arrived)
    for part in upload.parts:
        assert (part in missing) == (arrived.get(part.number) != part.size_bytes)


def test_an_upload_belongs_to_the_bytes_it_was_begun_for() -> None:
    upload = Upload("u", 3, "ab" * 32, 2)
    assert upload.is_of(StoredFile("a", 3, "ab" * 32))
    assert not upload.is_of(StoredFile("a", 3, "cd" * 32))
