"""Loads a model's processor (tokenizer, chat template, video processor) from a local folder. Needs no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from trainer_svc.qlora.errors import ModelRefusedError


def load_processor(folder: Path) -> Any:
    """The processor in `folder`. Raises `ModelRefusedError`; never runs code from the folder and never goes online."""
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelRefusedError(
            f"the processor cannot be loaded: {first_line(error)}",
            "add the model's preprocessor, video preprocessor and tokenizer files to the folder",
        ) from error
    if getattr(processor, "video_processor", None) is None:
        raise ModelRefusedError("the model's processor takes no video", "use a model that was trained on video")
    return processor


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    return ((str(error).strip() or type(error).__name__).splitlines()[0])[:300]
