"""The controls take exactly the meaning out of the clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.dataset_rows import Clip, Sample, Turn
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.video_controls import foreign_clips, reversed_frames, shuffled_frames


def sample(number: int, *clips: int) -> Sample:
    return Sample(f"s{number}", "eval", (Turn("user", (*(Clip(Path(f"{clip}.mp4")) for clip in clips), "What?")),))


def decoded(frames: int) -> DecodedFrames:
    pictures = np.arange(frames, dtype=np.uint8).repeat(12).reshape(frames, 2, 2, 3)
    return DecodedFrames(pictures, tuple(map(float, range(frames))), frames, frames, 1.0, float(frames))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=12), st.integers(0, 3))
def test_no_row_is_shown_its_own_clips(clips: list[list[int]], seed: int) -> None:
    samples = [sample(number, *each) for number, each in enumerate(clips)]

    found = foreign_clips(samples, seed)

    assert found == foreign_clips(samples, seed)
    for one, foreign in zip(samples, found, strict=True):
        own = {clip.path for clip in one.clips}
        strangers = [other for other in samples if own.isdisjoint(clip.path for clip in other.clips)]
        assert (foreign is None) == (not strangers)
        if foreign is not None:
            assert len(foreign) == len(one.clips)
            assert own.isdisjoint(clip.path for clip in foreign)


def test_where_every_row_has_a_clip_of_its_own_each_clip_is_shown_once() -> None:
    samples = [sample(number, number) for number in range(20)]

    found = [clips[0].path for clips in foreign_clips(samples, 0) if clips]

    assert sorted(found) == sorted(clip.path for each in samples for clip in each.clips)


def test_frames_change_places_and_times_do_not() -> None:
    clip = decoded(5)

    backwards, mixed = reversed_frames(clip), shuffled_frames(clip, "a")

    assert backwards.frames[:, 0, 0, 0].tolist() == [4, 3, 2, 1, 0]
    assert mixed.frames[:, 0, 0, 0].tolist() != [0, 1, 2, 3, 4]
    assert sorted(mixed.frames[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]
    assert backwards.timestamps == mixed.timestamps == clip.timestamps
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4], "the clip itself is used again"
    assert (shuffled_frames(clip, "a").frames == mixed.frames).all()
    assert shuffled_frames(decoded(1), "a").frames.shape[0] == 1
