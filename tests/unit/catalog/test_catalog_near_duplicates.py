"""Clips of one split that are in another one as well: the same bytes, or what looks alike."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from catalog_svc.domain.annotations import AnnotationReader, plan_annotations
from catalog_svc.domain.clip import Clip, DecodedClip
from catalog_svc.domain.content import ContentPlace
from catalog_svc.domain.dataset_check import DatasetVerdict, check_dataset
from catalog_svc.domain.dataset_info import DatasetInfo
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.near_duplicates import MAX_DISTANCE, NearDuplicates
from catalog_svc.domain.upload import StoredFile
from catalog_svc.store.rows import hash_to_column

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def clip(path: str, value: int, seconds: float = 2.0, sha256: str = "") -> Clip:
    decoded = DecodedClip(16, seconds, 8.0, 64, 64, "h264", perceptual_hash=value)
    return Clip(path, sha256 or path, 1, decoded, ContentPlace(path))


def flipped(value: int, bits: Iterable[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


@pytest.mark.parametrize("seed", range(20))
def test_what_is_near_is_found_and_what_is_not_is_not(seed: int) -> None:
    chance = random.Random(seed)
    value = chance.getrandbits(64)
    others = [clip(f"{number}.mp4", chance.getrandbits(64)) for number in range(50)]
    near = clip("near.mp4", flipped(value, chance.sample(range(64), MAX_DISTANCE)))
    far = clip("far.mp4", flipped(value, chance.sample(range(64), MAX_DISTANCE + 1)))
    assert NearDuplicates([*others, far, near]).find(clip("x.mp4", value)) is near
    assert NearDuplicates([*others, far]).find(clip("x.mp4", value)) is None


def test_the_nearest_one_of_about_the_same_length_is_named() -> None:
    same, nearer, long = clip("b.mp4", 0b11, 2.2), clip("c.mp4", 0b1, 2.4), clip("a.mp4", 0b1, 20.0)
    assert NearDuplicates([same, nearer, long]).find(clip("x.mp4", 0)) is nearer
    assert NearDuplicates([long]).find(clip("x.mp4", 1)) is None


def test_a_hundred_thousand_clips_take_few_comparisons() -> None:
    chance = random.Random(5)
    # Half of all bits alike everywhere, as in clips of one still camera.
    alike = 0x5555_5555_5555_5555
    search = NearDuplicates(
        (clip(str(number), chance.getrandbits(64) | alike) for number in range(100_000)), max_comparisons=2_000_000
    )
    for number in range(1000):
        search.find(clip(f"held out {number}", chance.getrandbits(64) | alike))
    # All against all would have been a hundred million.
    assert not search.is_exhausted


def test_equal_hashes_are_compared_as_one() -> None:
    search = NearDuplicates((clip(f"{number:05}", 0) for number in range(50_000)), max_comparisons=1000)
    for _ in range(3):
        assert search.find(clip("x", 1)) is not None
    assert not search.is_exhausted


def test_a_search_that_grows_beyond_measure_ends() -> None:
    # All in one stretch, and none near.
    values = [number << 16 for number in range(1 << 12, 1 << 13)]
    search = NearDuplicates((clip(str(value), value) for value in values), max_comparisons=10_000)
    found = [search.find(clip("x", 0xFFFF_0000_0000_0000 + number * 64)) for number in range(100)]
    assert not any(found)
    assert search.is_exhausted


@pytest.mark.parametrize("value", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_hash_comes_through_a_signed_column(value: int) -> None:
    column = hash_to_column(value)
    assert -(1 << 63) <= column < 1 << 63
    assert column % (1 << 64) == value


def checked(rows: str, clips: Iterable[Clip]) -> DatasetVerdict:
    text = f"video,caption,split\n{rows}".encode()
    files = [StoredFile(each.path, 1, each.sha256, NOW, ContentPlace(each.sha256)) for each in clips]
    plan = plan_annotations({"annotations.csv": len(text), **{file.path: 1 for file in files}}, DatasetInfo())
    assert not isinstance(plan, Issue)
    reader = AnnotationReader(plan, lambda path: io.BytesIO(text))
    return check_dataset(files, reader, {each.sha256: each.decoded for each in clips}, lambda sample: None)


def leaks(rows: str, clips: Iterable[Clip]) -> list[Issue]:
    verdict = checked(rows, clips)
    assert verdict.is_sound
    return list(verdict.issues)


def test_only_rows_that_training_measures_on_count_as_eval_rows() -> None:
    rows = "a.mp4,x,train\na.mp4,y,eval\na.mp4,y,val\na.mp4,y,validation\na.mp4,z,test\n"
    found = checked(rows, [clip("a.mp4", 1)]).findings
    assert (found.rows, found.train_rows, found.eval_rows) == (5, 1, 3)


def test_a_clip_in_two_splits_is_told_once_with_the_row() -> None:
    (found,) = leaks("a.mp4,x,train\na.mp4,y,eval\na.mp4,z,test\n", [clip("a.mp4", 1)])
    assert (found.reason, found.file, found.row) == ("HELD_OUT_CLIP_IN_TRAIN", "a.mp4", 2)


def test_the_same_bytes_under_another_path_are_told() -> None:
    clips = [clip("a.mp4", 1, sha256="s"), clip("b.mp4", 1, sha256="s")]
    (found,) = leaks("a.mp4,x,train\nb.mp4,y,eval\n", clips)
    assert (found.reason, found.file) == ("HELD_OUT_CLIP_IN_TRAIN", "b.mp4")
    assert "'a.mp4'" in found.message


def test_a_lookalike_is_told_and_a_stranger_is_not() -> None:
    clips = [clip("a.mp4", 0b1011), clip("b.mp4", 0b1000), clip("c.mp4", (1 << 64) - 1)]
    (found,) = leaks("a.mp4,x,train\nb.mp4,y,eval\nc.mp4,z,eval\n", clips)
    assert (found.reason, found.file, found.row) == ("HELD_OUT_CLIP_LIKE_TRAIN", "b.mp4", 2)


def test_lookalikes_within_one_split_are_nobodys_business() -> None:
    assert leaks("a.mp4,x,train\nb.mp4,y,train\n", [clip("a.mp4", 1), clip("b.mp4", 1)]) == []
