"""The numbers of the demo, found by measurement: how the base is made, and the fine-tuning that teaches it direction.

Plain numbers, so that whoever submits the job needs neither torch nor the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class BasePhase:
    """One stretch of base training."""

    steps: int
    clips_per_step: int
    frame_count: int
    """Frames seen of each clip; 2 make a picture, as the vision tower folds frames in pairs."""


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """How `trainer_svc.qlora.tiny_base` trains the base model."""

    phases: tuple[BasePhase, ...] = (
        BasePhase(steps=150, clips_per_step=16, frame_count=2),
        BasePhase(steps=250, clips_per_step=16, frame_count=8),
    )
    """Pictures first: naming and locating a shape is learned on a quarter of the tokens, then used over time."""
    muon_learning_rate: float = 0.02
    """For the matrices inside the blocks."""
    adamw_learning_rate: float = 2e-3
    """For embeddings, norms, biases and the head."""
    warmup_steps: int = 20
    decay_fraction: float = 0.4
    """The last part of all steps, over which both rates fall to zero."""
    max_gradient_norm: float = 1.0
    max_final_loss: float = 0.35
    """Above this the training is taken to have failed."""


BASE_RECIPE: Final = BaseRecipe()
