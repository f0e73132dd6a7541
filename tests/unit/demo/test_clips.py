"""The generated clips: the same from the same seed, and moving the way their answers say."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from reeltune_cli.demo.clips import (
    COLOURS,
    DIRECTIONS,
    FPS,
    FRAME_COUNT,
    SIZE,
    Frames,
    MovingShape,
    draw,
    sample_base_scene,
    sample_scene,
    write_clip,
)
from reeltune_cli.demo.dataset import scenes
from reeltune_cli.demo.questions import cell_name, clip_turns, direction_of, direction_question, picture_turns


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


def test_decoded_displacement_agrees_with_answer(tmp_path: Path) -> None:
    """Seen from outside: the colour's centre of mass in the decoded first and last frame tells the direction."""
    checked = 0
    for number, scene in enumerate(scenes(11, "train", 36)):
        write_clip(scene, tmp_path / f"{number}.mp4")
        frames = _decoded(tmp_path / f"{number}.mp4")
        for shape in scene.shapes:
            if _hidden(scene.shapes[0], scene.shapes[1]):
                continue
            moved = _centre_of_colour(frames[-1], shape.colour) - _centre_of_colour(frames[0], shape.colour)
            expected = np.array(DIRECTIONS[direction_of(shape)]) * np.hypot(*shape.travel)
            assert np.abs(moved - expected).max() < 3.0, (number, shape.name, moved, expected)
            checked += 1
    assert checked >= 36


def test_middle_of_a_clip_does_not_depend_on_the_direction() -> None:
    """The same random draws with other directions give the same half-way picture, pixel by pixel."""
    pictures = [
        draw(sample_scene(np.random.default_rng(5), pair), np.array([0.5]))
        for pair in (("left", "up"), ("right", "down"), ("up", "right"))
    ]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])


def test_shapes_stay_inside_the_frame() -> None:
    rng = np.random.default_rng(0)
    made = [sample_base_scene(rng) for _ in range(300)] + list(scenes(0, "train", 300))
    for shape in (shape for scene in made for shape in scene.shapes):
        for moment in (0.0, 1.0):
            assert all(shape.radius - 0.51 <= value <= SIZE - shape.radius + 0.51 for value in shape.centre(moment))


def test_base_never_says_a_direction() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = sample_base_scene(rng)
        for turn in (*picture_turns(scene, rng), *clip_turns(scene, rng)):
            assert "way" not in turn.question
            assert not any(turn.answer.endswith(f"goes {direction}") for direction in DIRECTIONS)


def test_answer_names_the_shape_and_its_direction() -> None:
    shape = MovingShape("red", "circle", 6.0, (32.0, 32.0), (0.0, -20.0))
    turn = direction_question(shape)
    assert (turn.question, turn.answer) == ("Which way does the red circle go?", "red circle goes up")


def test_still_shape_has_no_direction() -> None:
    still = MovingShape("red", "circle", 5.0, (32.0, 32.0), (0.0, 0.0))
    with pytest.raises(ValueError, match="red circle stands still"):
        direction_question(still)


@pytest.mark.parametrize(
    ("point", "name"),
    [((1, 1), "up left"), ((32, 63), "down middle"), ((64, 32), "middle right"), ((0, 64), "down left")],
)
def test_cell_name(point: tuple[float, float], name: str) -> None:
    assert cell_name(*point) == name


def _written(path: Path, *, seed: int) -> Path:
    write_clip(sample_scene(np.random.default_rng(seed), ("left", "down")), path)
    return path


def _decoded(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _hidden(below: MovingShape, above: MovingShape) -> bool:
    """Whether one covers part of the other at either end, which would shift its visible centre."""
    return any(
        np.hypot(*np.subtract(below.centre(moment), above.centre(moment))) < 2.2 * max(below.radius, above.radius)
        for moment in (0.0, 1.0)
    )


def _centre_of_colour(frame: Frames, colour: str) -> np.ndarray:
    far = np.abs(frame.astype(int) - np.array(COLOURS[colour])).max(axis=-1)
    rows, columns = np.nonzero(far < 60)
    return np.array([columns.mean(), rows.mean()])
