from __future__ import annotations

import pytest

from catalog_svc.domain.clip import DecodedClip
from catalog_svc.domain.row_shapes import MOST_SHAPES, ShapeClip, ShownClips, row_shapes
from catalog_svc.domain.sample import VideoPart
from catalog_svc.domain.statistics import QUANTILES, DatasetNumbers, Distribution, describe, distribution
from catalog_svc.domain.visual_tokens import VisionFamily, VisualSampling, sampled_frames, visual_tokens
from trainer_svc.qlora.frame_sampling import FrameRequest, select_frames


def clip(frames: int = 250, fps: float = 25.0, width: int = 640, height: int = 360, codec: str = "h264") -> DecodedClip:
    return DecodedClip(frames, frames / fps, fps, width, height, codec)


def test_no_number_is_no_distribution() -> None:
    assert distribution({}) == Distribution()


def test_one_number_has_one_bin() -> None:
    found = distribution({4.0: 3})
    assert (found.count, found.minimum, found.maximum, found.mean) == (3, 4.0, 4.0, 4.0)
    assert found.bins == ((4.0, 4.0, 3),)
    assert {value for _, value in found.quantiles} == {4.0}


def test_a_quantile_is_the_smallest_number_that_the_share_does_not_exceed() -> None:
    found = distribution({float(number): 1 for number in range(1, 101)})
    assert found.quantiles == tuple((share, round(share * 100)) for share in QUANTILES)


def test_the_bins_hold_every_number_once() -> None:
    found = distribution({0.0: 5, 0.1: 1, 19.999: 2, 20.0: 7})
    assert sum(count for *_, count in found.bins) == found.count == 15
    assert (found.bins[0], found.bins[-1]) == ((0.0, 1.0, 6), (19.0, 20.0, 9))
    assert all(left[1] == right[0] for left, right in zip(found.bins, found.bins[1:], strict=False))


@pytest.mark.parametrize("rate", [0.0, 0.5, 2.0, 30.0])
@pytest.mark.parametrize("most", [1, 8, 64, 768])
@pytest.mark.parametrize(("start", "end"), [(None, None), (2.0, None), (1.5, 4.0), (9.9, None), (0.0, 60.0)])
def test_as_many_frames_are_counted_as_the_trainer_takes(
    rate: float, most: int, start: float | None, end: float | None
) -> None:
    shown, whole = VideoPart("a.mp4", start, end), clip()
    times = [number / whole.fps for number in range(whole.frame_count)]
    taken = select_frames(times, FrameRequest(start=start or 0.0, end=end, fps=rate, max_frames=most))
    assert sampled_frames(whole, shown, VisualSampling(fps=rate, max_frames=most)) == len(taken)


def test_what_a_row_says_of_its_clip_goes_before_the_sampling() -> None:
    sampling = VisualSampling(max_frames=64)
    plain, own = VideoPart("a.mp4"), VideoPart("a.mp4", max_frames=4, max_pixels=1024)
    assert visual_tokens(clip(), own, sampling) < visual_tokens(clip(), plain, sampling)


def test_a_dataset_in_numbers() -> None:
    numbers = DatasetNumbers(
        splits={"eval": 1, "train": 3},
        answer_characters={2: 3, 9: 1},
        text_characters={20: 4},
        clips={"a.mp4": clip(), "b.mp4": clip(100, 10.0, 64, 64, "vp9")},
        shown=(
            ShownClips((VideoPart("a.mp4"),), 3),
            ShownClips((VideoPart("a.mp4"), VideoPart("b.mp4")), 1),
            ShownClips((VideoPart("gone.mp4"),), 0),
        ),
    )
    sampling = VisualSampling(VisionFamily.QWEN2_VL)
    found = describe(numbers, sampling)
    assert found.splits == (("train", 3), ("eval", 1))
    assert found.resolutions == (("640x360", 1), ("64x64", 1))
    assert found.codecs == (("h264", 1), ("vp9", 1))
    assert found.answer_characters.mean == 3.75
    one, other = (visual_tokens(each, VideoPart(""), sampling) for each in numbers.clips.values())
    assert (found.visual_tokens.count, found.visual_tokens.minimum, found.visual_tokens.maximum) == (
        4,
        one,
        one + other,
    )
    assert found.text_characters.mean == 20
    assert [len(shape.clips) for shape in found.row_shapes] == [2, 1]
    assert not found.has_more_shapes


def test_rows_of_one_shape_are_told_by_the_one_that_has_most_frames() -> None:
    clips = {"a.mp4": clip(100), "b.mp4": clip(250), "c.mp4": clip(50, width=64, height=64)}
    shown = [
        ShownClips((VideoPart("a.mp4"),), 3, "s1"),
        ShownClips((VideoPart("b.mp4"),), 1, "s2"),
        ShownClips((VideoPart("b.mp4", start_seconds=9.0),), 1, "s3"),
        ShownClips((VideoPart("b.mp4", max_frames=4),), 1, "s4"),
        ShownClips((VideoPart("c.mp4"),), 2, "s5"),
    ]
    plain, own, small = row_shapes(shown, clips)
    assert (plain.rows, plain.sample_id, plain.mean_frames) == (5, "s2", (3 * 100 + 250 + 25) / 5)
    assert plain.clips == (ShapeClip(640, 360, 250, 25.0),)
    assert (own.rows, own.clips[0].max_frames) == (1, 4), "what a row says by itself makes a shape of its own"
    assert small.clips == (ShapeClip(64, 64, 50, 25.0),)


def test_only_so_many_shapes_are_listed_the_largest_first() -> None:
    clips = {f"{side}.mp4": clip(width=side, height=side) for side in range(100, 100 + MOST_SHAPES + 1)}
    shown = tuple(ShownClips((VideoPart(path),), 1, path) for path in clips)
    found = describe(DatasetNumbers({}, {}, {}, clips, shown), VisualSampling())
    assert found.has_more_shapes
    assert len(found.row_shapes) == MOST_SHAPES
    assert found.row_shapes[0].clips[0].width == 100 + MOST_SHAPES
