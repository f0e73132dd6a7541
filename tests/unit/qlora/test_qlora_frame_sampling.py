from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.frame_sampling import FrameRequest, NoFramesError, scaled_size, select_frames

steps = st.lists(st.floats(0.001, 2.0), min_size=1, max_size=80)
requests = st.builds(
    FrameRequest,
    start=st.floats(0, 10),
    end=st.none() | st.floats(10.001, 200),
    fps=st.just(0.0) | st.floats(0.1, 60),
    max_frames=st.integers(1, 40),
    min_frames=st.integers(1, 4),
)


@given(steps, requests)
def test_chosen_frames_are_distinct_ordered_inside_and_within_the_bound(
    gaps: list[float], request: FrameRequest
) -> None:
    times = [0.0, *itertools.accumulate(gaps)]
    try:
        chosen = select_frames(times, request)
    except NoFramesError:
        assert not [t for t in times if t >= request.start and (request.end is None or t < request.end)]
        return
    assert 1 <= len(chosen) <= request.max_frames
    assert all(later > earlier for earlier, later in itertools.pairwise(chosen))
    assert all(times[index] >= request.start for index in chosen)
    assert request.end is None or all(times[index] < request.end for index in chosen)
    assert chosen == select_frames(times, request)


@given(st.integers(2, 300), st.integers(2, 32))
def test_uniform_sampling_takes_the_first_and_the_last_frame(count: int, frames: int) -> None:
    chosen = select_frames([index / 30 for index in range(count)], FrameRequest(max_frames=frames))
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
    assert len(chosen) == min(count, frames)


def test_uniform_sampling_of_an_even_clip() -> None:
    assert select_frames([index / 10 for index in range(10)], FrameRequest(max_frames=4)) == [0, 3, 6, 9]


def test_frames_a_second_within_the_bounds() -> None:
    times = [index / 10 for index in range(31)]
    assert select_frames(times, FrameRequest(fps=1, max_frames=8)) == [0, 10, 20, 30]
    assert len(select_frames(times, FrameRequest(fps=10, max_frames=8))) == 8
    assert len(select_frames(times, FrameRequest(fps=0.1, max_frames=8, min_frames=3))) == 3


def test_uneven_clips_are_sampled_evenly_in_time() -> None:
    # 1 s at 20 frames a second, then 9 s at 2: by index half the frames would come from the first second.
    times = [index / 20 for index in range(20)] + [1 + index / 2 for index in range(18)]
    chosen = [times[index] for index in select_frames(times, FrameRequest(max_frames=4))]
    assert chosen == pytest.approx([0.0, 3.0, 6.5, 9.5], abs=0.51)


def test_a_part_of_the_clip() -> None:
    times = [index / 10 for index in range(100)]
    assert select_frames(times, FrameRequest(start=2.0, end=3.0, max_frames=2)) == [20, 29]
    with pytest.raises(NoFramesError, match=r"9\.900 s"):
        select_frames(times, FrameRequest(start=50.0))


@given(st.integers(2, 4000), st.integers(2, 4000), st.integers(0, 2**22))
def test_scaled_frames_keep_their_shape_and_the_bound(height: int, width: int, limit: int) -> None:
    new_height, new_width = scaled_size(height, width, limit)
    if limit == 0 or height * width <= limit:
        assert (new_height, new_width) == (height, width)
    else:
        assert new_height % 2 == new_width % 2 == 0
        assert new_height * new_width <= limit or 2 in (new_height, new_width)


@given(steps, requests, st.sampled_from(["", "1/0/s1/0", "1/1/s1/0"]))
def test_one_frame_of_each_segment_is_distinct_ordered_and_inside(
    gaps: list[float], request: FrameRequest, draw: str
) -> None:
    times = [0.0, *itertools.accumulate(gaps)]
    request = replace(request, by_segments=True, draw=draw)
    try:
        even = select_frames(times, replace(request, by_segments=False))
    except NoFramesError:
        return
    chosen = select_frames(times, request)
    assert len(chosen) == len(even)
    assert all(later > earlier for earlier, later in itertools.pairwise(chosen))
    assert all(times[index] >= request.start for index in chosen)
    assert request.end is None or all(times[index] < request.end for index in chosen)
    assert chosen == select_frames(times, request)


def test_segments_are_equal_and_the_middle_of_each_is_taken_where_nothing_is_drawn() -> None:
    times = [index / 10 for index in range(40)]
    assert select_frames(times, FrameRequest(max_frames=4, by_segments=True)) == [5, 15, 25, 35]
    drawn = [select_frames(times, FrameRequest(max_frames=4, by_segments=True, draw=f"7/{n}/s/0")) for n in range(200)]
    for number in range(4):
        places = {chosen[number] for chosen in drawn}
        assert places == set(range(10 * number, 10 * number + 10)), "every frame of its segment, and no other"
    assert len({tuple(chosen) for chosen in drawn}) > 150
    # A clip of uneven rate: segments are equal in time, not in frames.
    uneven = [*(index / 100 for index in range(100)), *(1 + index / 10 for index in range(30))]
    assert select_frames(uneven, FrameRequest(max_frames=2, by_segments=True)) == [55, 120]


def test_what_is_drawn_is_the_same_on_every_machine() -> None:
    times = [index / 10 for index in range(100)]
    assert select_frames(times, FrameRequest(max_frames=5, by_segments=True, draw="42/3/sample-1/0")) == EXPECTED_DRAW


EXPECTED_DRAW = [6, 25, 54, 73, 87]
