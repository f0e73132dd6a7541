"""The generated clips: the same from the same seed, and showing what their answers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from reeltune_cli.demo.clips import (
    COLOURS,
    FPS,
    FRAME_COUNT,
    SIZE,
    Frames,
    sample_picture,
    sample_scene,
    write_clip,
)
from reeltune_cli.demo.dataset import scenes
from reeltune_cli.demo.questions import cell_name, clip_turns, order_turns, picture_turns


def test_clip_is_h264_of_stated_form(tmp_path: Path) -> None:
    clip = _written(tmp_path / "a.mp4", seed=3)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height, stream.average_rate) == (SIZE, SIZE, FPS)
    assert _decoded(clip).shape == (FRAME_COUNT, SIZE, SIZE, 3)


def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        _written(tmp_path / f"{name}.mp4", seed=seed).read_bytes() for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first != other


def test_decoded_frames_agree_with_answers(tmp_path: Path) -> None:
    """Seen from outside: the colour in the decoded first frame is the one said to come first, and so for the last."""
    for number, scene in enumerate(scenes(11, "train", 30)):
        write_clip(scene, tmp_path / f"{number}.mp4")
        frames = _decoded(tmp_path / f"{number}.mp4")
        first, last = (turn.answer for turn in order_turns(scene))
        assert _pixels_of(frames[0], first) > 40, (number, first)
        assert _pixels_of(frames[0], last) == 0, (number, last)
        assert _pixels_of(frames[-1], last) > 40, (number, last)
        assert _pixels_of(frames[-1], first) == 0, (number, first)


def test_every_shape_is_seen_for_a_third_of_its_clip() -> None:
    for scene in scenes(0, "train", 300):
        for shape in scene.shapes:
            assert shape.seen[1] - shape.seen[0] > 0.3


def test_nothing_but_time_tells_the_order() -> None:
    """With the two colours exchanged, the same draws give the same clip but for the colours."""
    there, back = (sample_scene(np.random.default_rng(5), pair) for pair in (("red", "blue"), ("blue", "red")))
    assert [replace(shape, colour="") for shape in there.shapes] == [replace(shape, colour="") for shape in back.shapes]
    assert [shape.colour for shape in there.shapes] == [shape.colour for shape in reversed(back.shapes)]


def test_shapes_stay_inside_the_frame() -> None:
    rng = np.random.default_rng(0)
    made = [sample_picture(rng) for _ in range(300)] + list(scenes(0, "train", 300))
    for shape in (shape for scene in made for shape in scene.shapes):
        for moment in (0.0, 1.0):
            assert all(shape.radius <= value <= SIZE - shape.radius for value in shape.centre(moment))


def test_base_never_tells_the_order() -> None:
    """The base tells shapes from left to right, so the one it tells first comes first in half of the clips only."""
    rng = np.random.default_rng(0)
    first_told = 0
    for _ in range(400):
        scene = sample_scene(rng)
        turns = (*picture_turns(scene), *clip_turns(scene, rng))
        assert not {turn.question for turn in turns} & {turn.question for turn in order_turns(scene)}
        first_told += turns[-1].answer.startswith(scene.shapes[0].name)
    assert 160 < first_told < 240


@pytest.mark.parametrize(
    ("point", "name"),
    [((1, 1), "up left"), ((32, 63), "down middle"), ((64, 32), "middle right"), ((0, 64), "down left")],
)
def test_cell_name(point: tuple[float, float], name: str) -> None:
    assert cell_name(*point) == name


def _written(path: Path, *, seed: int) -> Path:
    write_clip(sample_scene(np.random.default_rng(seed)), path)
    return path


def _decoded(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _pixels_of(frame: Frames, colour: str) -> int:
    far = np.abs(frame.astype(int) - np.array(COLOURS[colour])).max(axis=-1)
    return int((far < 45).sum())
