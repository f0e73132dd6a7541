"""Checkpoints on their way from the training process to the scheduler."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import capture_logs

from trainer_svc.domain.attempt import SavedCheckpoint
from trainer_svc.usecases.publish_checkpoints import CheckpointPublisher


def test_the_same_checkpoint_again_waits_once_and_a_newer_one_of_its_step_takes_its_place(tmp_path: Path) -> None:
    """As when a stop follows the checkpoint of its step, or the measurement that it owed is made."""
    attempt = cast(Any, SimpleNamespace(stop_ordered=asyncio.Event()))
    waiting = tmp_path / "publish"
    publisher = CheckpointPublisher(attempt, waiting, cast(Any, None), cast(Any, None))
    saved = tmp_path / "step-00000002"
    saved.mkdir()

    def offer(manifest: str) -> list[str]:
        (saved / "manifest.json").unlink(missing_ok=True)
        (saved / "manifest.json").write_text(manifest)
        publisher.offer(SavedCheckpoint(2, saved, None))
        return [(copy / "manifest.json").read_text() for copy in waiting.iterdir()]

    with capture_logs() as told:
        assert offer("one") == ["one"]
        assert offer("one") == ["one"]
        assert offer("other") == ["other"]
    assert told == []
