from __future__ import annotations

import inspect

import pytest

from trainer_svc.qlora import errors
from trainer_svc.qlora.errors import (
    AllStepsLostError,
    BadClipError,
    BadDataError,
    CheckpointMismatchError,
    ClipFault,
    DecodeProcessError,
    DiskTroubleError,
    GradientAuditError,
    ModelAuditError,
    ModelRefusedError,
    NonFiniteHeldOutLossError,
    NonFiniteLossError,
    PeerLostError,
)
from trainer_svc.qlora.failures import as_failure, explained
from trainer_svc.qlora.messages import FailureReason, Log
from trainer_svc.qlora.spec import SpecError


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


class AcceleratorError(RuntimeError):
    """Named as torch's is."""


CASES: list[tuple[Exception, FailureReason, str]] = [
    (SpecError("lora.rank", "too large", "lower it"), FailureReason.BAD_SPEC, "lora.rank: too large"),
    (BadDataError("row 3: no clip", "add it"), FailureReason.BAD_DATA, "row 3: no clip"),
    (BadClipError("/x/a.mp4", ClipFault.EMPTY, "0 bytes"), FailureReason.BAD_DATA, "clip a.mp4: empty: 0 bytes"),
    (ModelRefusedError("has code", "remove it"), FailureReason.MODEL_UNSUPPORTED, "has code"),
    (ModelAuditError("lm_head is 4-bit"), FailureReason.MODEL_UNSUPPORTED, "lm_head is 4-bit"),
    (GradientAuditError("x got no gradient"), FailureReason.MODEL_UNSUPPORTED, "x got no gradient"),
    (CheckpointMismatchError("another run"), FailureReason.CHECKPOINT_MISMATCH, "another run"),
    (NonFiniteLossError(3, float("nan"), 1.0, ["s1"]), FailureReason.NON_FINITE_LOSS, "step 3: loss nan"),
    (NonFiniteHeldOutLossError(3, ["e1"]), FailureReason.NON_FINITE_LOSS, "held-out samples e1"),
    (AllStepsLostError(3), FailureReason.NON_FINITE_LOSS, "all 3 steps were lost"),
    (OutOfMemoryError("CUDA out of memory"), FailureReason.OUT_OF_MEMORY, "CUDA out of memory"),
    (MemoryError(), FailureReason.OUT_OF_MEMORY, "MemoryError"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureReason.OUT_OF_MEMORY, "allocate memory"),
    (DecodeProcessError("killed"), FailureReason.DECODER_LOST, "killed"),
    (AcceleratorError("CUDA error: unspecified launch failure"), FailureReason.DEVICE_LOST, "launch failure"),
    (AcceleratorError("CUDA error: out of memory"), FailureReason.OUT_OF_MEMORY, "out of memory"),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        FailureReason.DEVICE_LOST,
        "CUBLAS_STATUS_EXECUTION_FAILED",
    ),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), FailureReason.OUT_OF_MEMORY, "ALLOC_FAILED"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureReason.INTERNAL, "RuntimeError: mat1"),
    (KeyError("what"), FailureReason.INTERNAL, "KeyError: 'what'"),
    (DiskTroubleError("no room for step 3"), FailureReason.STORAGE_UNAVAILABLE, "no room for step 3"),
    (PeerLostError("rank 1 is gone"), FailureReason.RANK_LOST, "rank 1 is gone"),
]


@pytest.mark.parametrize(("error", "reason", "words"), CASES)
def test_every_error_has_a_reason_words_and_a_next_step(error: Exception, reason: FailureReason, words: str) -> None:
    failure = as_failure(error)
    assert failure.reason is reason
    assert words in failure.message
    assert failure.next_step


@pytest.mark.parametrize(
    ("error", "has_stack"),
    [(KeyError("odd"), True), (AcceleratorError("CUDA error: lost"), True), (BadDataError("row 3", "mend it"), False)],
)
def test_a_stack_is_logged_where_the_message_does_not_explain_it(error: Exception, has_stack: bool) -> None:
    logged: list[Log] = []
    with pytest.raises(type(error)) as caught:
        raise error
    assert explained(caught.value, logged.append) == as_failure(error)
    assert [line.level for line in logged] == ["error"] * has_stack
    assert all("in test_a_stack_is_logged" in line.text and type(error).__name__ in line.text for line in logged)


def test_long_messages_are_cut_to_what_a_job_record_takes() -> None:
    assert len(as_failure(RuntimeError("x" * 5000)).message) <= 1024


def test_no_error_of_the_library_is_left_to_chance() -> None:
    own = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == errors.__name__
    }
    explained = {type(error) for error, reason, _ in CASES if reason is not FailureReason.INTERNAL}
    assert own <= explained
