"""Takes the meaning out of clips while all else stays: whose answers do not change has not looked at the video."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trainer_svc.qlora.dataset_rows import Clip, Sample
from trainer_svc.qlora.frame_decoder import DecodedFrames


def foreign_clips(samples: Sequence[Sample], seed: int) -> list[tuple[Clip, ...] | None]:
    """For each sample the clips of another one, as many as its own; None where all others show one of its own clips.

    Samples are put into a random order, and each takes the clips of the next in it that shares none with it.
    """
    order = list(range(len(samples)))
    random.Random(f"clips {seed}").shuffle(order)  # noqa: S311  # no secret
    found: list[tuple[Clip, ...] | None] = [None] * len(samples)
    for place, index in enumerate(order):
        own = {clip.path for clip in samples[index].clips}
        for other in (*order[place + 1 :], *order[:place]):
            clips = samples[other].clips
            if clips and own.isdisjoint(clip.path for clip in clips):
                found[index] = tuple(clips[number % len(clips)] for number in range(len(samples[index].clips)))
                break
    return found


def has_order(clips: Sequence[DecodedFrames]) -> bool:
    """Whether there are frames that another order would change."""
    return any(len(clip.frames) > 1 for clip in clips)


def reversed_frames(clip: DecodedFrames) -> DecodedFrames:
    """The same clip backwards; times stay as they were."""
    return replace(clip, frames=np.ascontiguousarray(clip.frames[::-1]))


def shuffled_frames(clip: DecodedFrames, seed: str) -> DecodedFrames:
    """The same frames in random order, never in their own; times stay as they were. Equal seeds give equal orders."""
    count = len(clip.frames)
    order = list(range(count))
    dice = random.Random(f"frames {seed}")  # noqa: S311  # no secret
    while count > 1 and order == sorted(order):
        dice.shuffle(order)
    return replace(clip, frames=np.ascontiguousarray(clip.frames[order]))
