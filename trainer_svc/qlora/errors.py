"""Every way in which training or inference gives up, typed. Imports no training library."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class ModelRefusedError(ValueError):
    """A model folder that cannot or must not be loaded."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class ModelAuditError(RuntimeError):
    """The model in memory is not what was asked for: training it would give a silently worse adapter."""


class BadDataError(ValueError):
    """A dataset or one of its samples that cannot be trained on, with where and what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class ClipFault(StrEnum):
    MISSING = "missing"
    EMPTY = "empty"
    NOT_VIDEO = "not_video"
    UNDECODABLE = "undecodable"
    NO_FRAMES = "no_frames"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"


class BadClipError(Exception):
    """A clip that gives no frames: which one, what kind of fault, and the decoder's words."""

    def __init__(self, clip: str, fault: ClipFault, detail: str) -> None:
        super().__init__(f"clip {Path(clip).name}: {fault.value.replace('_', ' ')}: {detail}")
        self.clip = clip
        self.fault = fault
        self.detail = detail


class DecodeProcessError(RuntimeError):
    """A decode process cannot even start: a broken installation, not a bad clip."""


class GradientAuditError(RuntimeError):
    """A trainable tensor got no gradient, or a non-finite one: it would silently stay untrained."""


class NonFiniteLossError(ArithmeticError):
    """Loss or gradient became infinite or not a number. The weights were not touched by that step."""

    remedy = "lower optimization.learning_rate, look at the named samples, or compute in 32 bits (quantization)"

    def __init__(self, step: int, loss: float, grad_norm: float, sample_ids: list[str]) -> None:
        super().__init__(f"step {step}: loss {loss}, gradient norm {grad_norm}, samples {_named(sample_ids)}")
        self.loss = loss
        self.sample_ids = sample_ids


class NonFiniteHeldOutLossError(NonFiniteLossError):
    """The same of the samples that are held out, of which those without a finite loss are named."""

    remedy = (
        "look at the named samples, or leave them out of the held-out ones; where all are named, lower "
        "optimization.learning_rate"
    )

    def __init__(self, step: int, sample_ids: list[str]) -> None:
        ArithmeticError.__init__(
            self, f"after step {step}: no finite loss on the held-out samples {_named(sample_ids)}"
        )


class AllStepsLostError(NonFiniteLossError):
    """Every step of a run was lost to overflow of fp16: its adapter has learned nothing."""

    remedy = "compute in BF16 or FP32 (quantization), or train for more steps: the first ones find fp16's scale"

    def __init__(self, steps: int) -> None:
        ArithmeticError.__init__(self, f"all {steps} steps were lost to overflow of fp16: nothing was learned")


def _named(sample_ids: list[str]) -> str:
    return ", ".join(sample_ids[:16]) + (" …" if len(sample_ids) > 16 else "")


class DiskTroubleError(RuntimeError):
    """What was to be written does not fit on the disk, or the disk does not take it; nothing of it is left behind."""


class PeerLostError(RuntimeError):
    """Another process of the same run is gone, and this one cannot go on without it."""


class CheckpointMismatchError(ValueError):
    """A checkpoint of another run lies where this one would go on."""
