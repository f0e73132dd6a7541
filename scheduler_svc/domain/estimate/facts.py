"""What an estimate is made from: a model's layers and a dataset's clips."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FrameBudget(StrEnum):
    """What a processor's limits of pixels hold for; the names are those of the catalog's contract."""

    EACH_FRAME = "EACH_FRAME"
    ALL_FRAMES = "ALL_FRAMES"
    SHARED = "SHARED"
    FIXED = "FIXED"


@dataclass(frozen=True, slots=True)
class FrameRule:
    """How a model's processor turns frames into tokens; the fields are those of the catalog's contract."""

    budget: FrameBudget
    patch_size: int = 0
    frames_per_patch: int = 1
    merge_size: int = 1
    min_pixels: int = 0
    max_pixels: int = 0
    max_frame_tokens: int = 0
    max_clip_tokens: int = 0
    tokens_per_frame: int = 0
    tokens_per_clip: int = 0
    patches_per_token: float = 1.0
    characters_per_step: int = 0
    is_upper_bound: bool = False

    @property
    def is_plausible(self) -> bool:
        """Whether its numbers are those of some model: with others nothing is to be counted."""
        least = 0 if self.budget is FrameBudget.FIXED else 1
        return all(least <= getattr(self, name) <= most for name, most in _SIZES.items()) and all(
            0 <= getattr(self, name) <= most for name, most in _COUNTS.items()
        )


_SIZES = {"patch_size": 1024, "frames_per_patch": 64, "merge_size": 64}
_COUNTS = {
    "min_pixels": 1 << 32,
    "max_pixels": 1 << 32,
    "max_frame_tokens": 1 << 32,
    "max_clip_tokens": 1 << 32,
    "tokens_per_frame": 1 << 20,
    "tokens_per_clip": 1 << 20,
    "patches_per_token": 64.0**2,
    "characters_per_step": 10_000,
}
"""What no model comes near, as the catalog has it, too."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model."""

    parameters: int = 0
    linear_layers: int = 0
    """Layers that an adapter can be trained for."""
    linear_parameters: int = 0
    """Their weights."""
    linear_inputs: int = 0
    """The widths of their inputs, added up."""
    linear_outputs: int = 0
    largest_linear: int = 0
    """Weights of the largest of them."""
    layers: int = 0
    """Blocks that follow one another."""
    width: int = 0
    """Numbers that a token has between two blocks."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The layers of a model."""

    vision: Part
    projector: Part
    language: Part
    head: Part
    """Without parameters where it shares the weights of the embeddings."""
    vocabulary: int
    context_length: int
    """Tokens; 0 where nobody knows."""
    frame_rule: FrameRule | None
    """None where nobody knows how frames become tokens."""


@dataclass(frozen=True, slots=True)
class ShapeClip:
    """One clip as a row shows it."""

    width: int
    height: int
    frames: int
    """That there are to choose from."""
    fps: float
    max_frames: int | None = None
    """What the row says by itself; None: nothing."""
    sampling_fps: float | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class RowShape:
    """Rows that show clips of the same sizes."""

    rows: int
    clips: tuple[ShapeClip, ...]
    """Of the row that has most frames to choose from."""
    sample_id: str = ""
    """That row's."""
    mean_frames: float = 0.0
    """Of all these rows, to choose from."""

    @property
    def frames(self) -> int:
        """Of that row, to choose from."""
        return sum(clip.frames for clip in self.clips)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetShape:
    """The rows of a dataset by what they show and say.

    Equal to itself alone: it is asked for once, and what is remembered of it must not cost a look at thousands of rows.
    """

    shapes: tuple[RowShape, ...]
    rows: int = 0
    """For training."""
    max_text: int = 0
    """Characters of a row's words."""
    mean_text: float = 0.0
    max_answer: int = 0
    """Characters of a row's answers."""
    mean_answer: float = 0.0
    counted: int = 0
    """Rows that `shapes` are chosen from, those of most pixels first; no more than they have: all are there."""
    splits: frozenset[str] = frozenset()
    """All that have rows; empty where they are not known."""

    @property
    def shown(self) -> int:
        """The rows of `shapes`."""
        return sum(shape.rows for shape in self.shapes)
