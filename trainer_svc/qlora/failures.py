"""What an error means to the owner of a run: its reason, in words, and what to do next."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from trainer_svc.qlora.errors import (
    BadClipError,
    BadDataError,
    CheckpointMismatchError,
    DecodeProcessError,
    DiskTroubleError,
    GradientAuditError,
    ModelAuditError,
    ModelRefusedError,
    NonFiniteLossError,
    PeerLostError,
)
from trainer_svc.qlora.messages import Failed, FailureReason, Log
from trainer_svc.qlora.spec import SpecError

_MESSAGE_CHARACTERS = 1000
_STACK_CHARACTERS = 8000
_DEVICE_FAULTS = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "CUDNN_STATUS")
_NO_MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def as_failure(error: Exception) -> Failed:
    """The message for any error; what is not known to be the owner's is INTERNAL."""
    reason, next_step = _classify(error)
    words = getattr(error, "problem", None) or str(error) or type(error).__name__
    if isinstance(error, SpecError):
        words = f"{error.field}: {error.problem}"
    if reason is FailureReason.INTERNAL:
        words = f"{type(error).__name__}: {words}"
    return Failed(reason, words[:_MESSAGE_CHARACTERS], next_step)


def _classify(error: Exception) -> tuple[FailureReason, str]:
    remedy = str(getattr(error, "remedy", ""))
    match error:
        case SpecError():
            return FailureReason.BAD_SPEC, remedy
        case BadDataError():
            return FailureReason.BAD_DATA, remedy
        case BadClipError():
            return FailureReason.BAD_DATA, "replace the clip or remove its rows"
        case NonFiniteLossError():
            return FailureReason.NON_FINITE_LOSS, remedy
        case ModelRefusedError():
            return FailureReason.MODEL_UNSUPPORTED, remedy
        case ModelAuditError() | GradientAuditError():
            return FailureReason.MODEL_UNSUPPORTED, "report this model: its parts are not where they should be"
        case CheckpointMismatchError():
            return FailureReason.CHECKPOINT_MISMATCH, "use another out folder, or the same model, dataset and spec"
        case DiskTroubleError():
            return FailureReason.STORAGE_UNAVAILABLE, "make room in the trainer's data folder"
        case PeerLostError():
            return FailureReason.RANK_LOST, "the run goes on from its newest checkpoint when it is started again"
        case DecodeProcessError():
            return FailureReason.DECODER_LOST, "see that the machine has memory to spare, and the decoder its libraries"
        # Before what a device's fault looks like: no memory is told in the same words.
        case _ if _out_of_memory(error):
            return (
                FailureReason.OUT_OF_MEMORY,
                (
                    "lower optimization.batch_size (and raise gradient_accumulation_steps), sampling.max_frames or "
                    "sampling.max_pixels, or turn on optimization.gradient_checkpointing"
                ),
            )
        case _ if _device_lost(error):
            return (
                FailureReason.DEVICE_LOST,
                "if it happens again, look at the device's health: nvidia-smi -q, and dmesg for Xid errors",
            )
        case _:
            return FailureReason.INTERNAL, "see the trainer's log; if it happens again, report it with that log"


def explained(error: Exception, log: Callable[[Log], object]) -> Failed:
    """Does as `as_failure`, and logs the stack where only that can tell more than the message."""
    failure = as_failure(error)
    if failure.reason in (FailureReason.INTERNAL, FailureReason.DEVICE_LOST):
        log(stack_of(error))
    return failure


def stack_of(error: Exception) -> Log:
    """Where an error was raised, for the job's log."""
    return Log("error", "".join(traceback.format_exception(error))[-_STACK_CHARACTERS:])


# Errors of torch are known by name: this module is used before torch is loaded.


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _device_lost(error: Exception) -> bool:
    if type(error).__name__ == "AcceleratorError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _DEVICE_FAULTS)
