"""The numbers of the demo, found by measurement: how the base is made, and the fine-tuning.

Plain numbers, so that whoever submits the job needs neither torch nor the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class BasePhase:
    """One stretch of base training."""

    asks: Literal["picture", "clip"]
    """What of the questions: `picture_turns` or `clip_turns`."""
    steps: int
    clips_per_step: int
    frame_count: int
    """Frames seen of each clip; 2 make a picture, as the vision tower folds frames in pairs."""


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """How `trainer_svc.qlora.tiny_base` trains the base model."""

    phases: tuple[BasePhase, ...] = (
        BasePhase("picture", steps=150, clips_per_step=48, frame_count=2),
        BasePhase("clip", steps=150, clips_per_step=24, frame_count=8),
    )
    """Seeing first, on short texts and many pictures; then time."""
    muon_learning_rate: float = 0.02
    """For the matrices inside the blocks."""
    adamw_learning_rate: float = 2e-3
    """For embeddings, norms, biases and the head."""
    warmup_steps: int = 20
    decay_fraction: float = 0.3
    """The last part of all steps, over which both rates fall to zero."""
    max_gradient_norm: float = 1.0
    max_final_loss: float = 0.3
    """Above this the training is taken to have failed."""


BASE_RECIPE: Final = BaseRecipe()

SHIPPED_BASE: Final = Path(__file__).parent / "base"
"""What `make_base(seed=0)` of `trainer_svc.qlora.tiny_base` made with these phases and rates.

Shipped, not made at demo time: it takes four to six minutes on two busy cores, and not every seed serves. Of the two
seeds tried, fine-tuning took this one to 0.95 and more on held-out clips and the other, seed 1, only to 0.65, although
its final loss passed the limit; longer phases have not been tried. Its `training.json` records the run, which was
made before the limit on the final loss was set.
"""


@dataclass(frozen=True, slots=True)
class TuningRecipe:
    """The fine-tuning job of the demo: QLoRA on NF4, adapters on the language model's linear layers only."""

    train_clips: int = 360
    """Each asked for both of its colours: twice as many samples."""
    held_out_clips: int = 60
    max_frames: int = 8
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_ratio: float = 0.05
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_steps: int = 90
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    gradient_checkpointing: bool = False
    max_new_tokens: int = 12
    """Enough for every answer of the base and the tuned model."""
    most_base_exact_match: float = 0.30
    """The base must not know the answers …"""
    least_tuned_exact_match: float = 0.90
    """… the tuned model must …"""
    most_shuffled_exact_match: float = 0.35
    """… and must not when clips are shuffled among questions; chance is 1 in 6."""


TUNING_RECIPE: Final = TuningRecipe()
