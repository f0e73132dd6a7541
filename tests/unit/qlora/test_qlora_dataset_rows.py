from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.dataset_rows import Clip, Sample, load_samples, split_samples
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.spec import SamplingSpec


def row(sample_id: str = "s1", uri: str = "a.mp4", **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "messages": [
            {"role": "user", "content": [{"type": "video", "uri": uri}, {"type": "text", "text": "what?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a ball"}]},
        ],
    } | changes


def dataset(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "clips").mkdir(exist_ok=True)
    (folder / "clips" / "a.mp4").write_bytes(b"not decoded here")
    (folder / "clips" / "empty.mp4").write_bytes(b"")
    (folder / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return folder


def test_rows_become_samples_with_their_clips(tmp_path: Path) -> None:
    clip = {"type": "video", "uri": "clips/a.mp4", "start": 1, "end": 2.5, "fps": 2, "max_frames": 4, "max_pixels": 64}
    messages = [{"role": "user", "content": [clip]}, {"role": "assistant", "content": "a ball"}]
    (sample,) = load_samples(dataset(tmp_path, row(messages=messages, split="validation")))
    assert sample.split == "eval"
    assert sample.clips == (Clip(tmp_path / "clips/a.mp4", 1.0, 2.5, 2.0, 4, 64),)
    assert sample.turns[1].parts == ("a ball",)


@pytest.mark.parametrize("separator", "\v\f\x1c\x1d\x1e\x85\u2028\u2029", ids=lambda each: f"U+{ord(each):04X}")
def test_a_row_may_hold_what_elsewhere_ends_a_line(tmp_path: Path, separator: str) -> None:
    said = f"one{separator}two"
    first, second = row(f"s{separator}1", messages=answer(said)), row("s2")
    folder = dataset(tmp_path)
    # As the trainer writes rows: characters as they are.
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in (first, second))
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    samples = load_samples(folder)
    assert [sample.sample_id for sample in samples] == [f"s{separator}1", "s2"]
    assert samples[0].turns[1].parts == (said,)


def test_tags_come_with_a_row(tmp_path: Path) -> None:
    first, second = load_samples(dataset(tmp_path, row(tags=["b", "a", "b"]), row("s2")))
    assert (first.tags, second.tags) == (("b", "a"), ())


def test_a_clips_own_settings_win_over_the_runs() -> None:
    sampling = SamplingSpec(max_frames=8, min_frames=4, fps=1.0, max_pixels=100)
    own = Clip(Path("a"), fps=0.0, max_frames=2).frame_request(sampling)
    assert (own.fps, own.max_frames, own.min_frames, own.max_pixels) == (0.0, 2, 2, 100)
    assert Clip(Path("a")).frame_request(sampling).fps == 1.0


def answer(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(sample_id=""), "sample_id"),
        (row(split="holdout"), "split: 'holdout'"),
        (row(messages=[]), "messages"),
        (row(tags="a"), "tags"),
        (row(tags=["a", 1]), "tags"),
        (row(messages=[{"role": "human", "content": "q"}]), "messages[0].role: 'human'"),
        (row(messages=[{"role": "user", "content": "q"}]), "no assistant turn"),
        (row(messages=answer("  ")), "messages[1].content: the answer is empty"),
        (row(messages=answer([{"type": "video", "uri": "a.mp4"}])), "cannot hold a video"),
        (row(messages=answer([{"type": "image", "uri": "a.png"}])), "'image' is none of"),
        (row(uri="missing.mp4"), "there is no clip 'missing.mp4'"),
        (row(uri="empty.mp4"), "'empty.mp4' has 0 bytes"),
        (row(uri="../a.mp4"), "no path inside"),
        (row(uri="/etc/passwd"), "no path inside"),
        (row(uri="https://example.com/a.mp4"), "no path inside"),
    ],
)
def test_what_is_wrong_is_told_by_row_and_field(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    with pytest.raises(BadDataError) as caught:
        load_samples(dataset(tmp_path, row("good"), bad))
    assert "row 2" in str(caught.value)
    assert words in str(caught.value)


def test_all_bad_rows_are_told_at_once_up_to_ten(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"row 10: .*; and 2 more"):
        load_samples(dataset(tmp_path, *(row(f"s{index}", uri="missing.mp4") for index in range(12))))


def test_the_same_sample_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="row 2: sample_id: 's1' is used twice"):
        load_samples(dataset(tmp_path, row(), row()))


def test_no_rows_file(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"rows\.jsonl"):
        load_samples(tmp_path)


def samples(*splits: str) -> list[Sample]:
    return [Sample(f"s{index}", split, ()) for index, split in enumerate(splits)]


def test_rows_that_name_the_eval_split_are_held_out() -> None:
    training, held_out = split_samples(samples("train", "eval", "test", "train"), eval_fraction=0.9)
    assert [sample.sample_id for sample in training] == ["s0", "s3"]
    assert [sample.sample_id for sample in held_out] == ["s1"]


@given(st.integers(1, 200), st.floats(0, 0.9))
def test_a_fraction_is_held_out_by_id_and_nothing_is_lost(count: int, fraction: float) -> None:
    rows = samples(*["train"] * count)
    try:
        training, held_out = split_samples(rows, fraction)
    except BadDataError:
        assert count < 30
        return
    assert {sample.sample_id for sample in training} | {sample.sample_id for sample in held_out} == {
        sample.sample_id for sample in rows
    }
    # A sample's place does not depend on which others there are.
    fewer = [sample for sample in rows if sample in training] + held_out[:1]
    assert split_samples(fewer, fraction)[0] == training


def test_nothing_left_to_train_on() -> None:
    with pytest.raises(BadDataError, match="no row is left"):
        split_samples(samples("eval", "test"), 0.0)
