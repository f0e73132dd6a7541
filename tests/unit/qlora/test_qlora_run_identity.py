"""Which changes make a run another one, that goes on from no checkpoint of the first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trainer_svc.qlora import temporal_aware_lora
from trainer_svc.qlora.checkpoint_folders import KeepRule, newest_checkpoint, write_checkpoint
from trainer_svc.qlora.dataset_rows import load_samples
from trainer_svc.qlora.errors import CheckpointMismatchError
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.run_context import JobFolders, LocalRun
from trainer_svc.qlora.run_identity import run_identity
from trainer_svc.qlora.spec import TrainingSpec

SPEC = TrainingSpec().with_overrides(["lora.temporal_groups=language"])
ROW = {
    "sample_id": "s0",
    "messages": [
        {"role": "user", "content": [{"type": "video", "uri": "a.mp4"}, {"type": "text", "text": "colour?"}]},
        {"role": "assistant", "content": "red"},
    ],
}


@pytest.fixture
def folders(tmp_path: Path) -> JobFolders:
    folders = JobFolders(tmp_path / "model", tmp_path / "dataset", tmp_path / "out")
    (folders.dataset / "clips").mkdir(parents=True)
    (folders.dataset / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (folders.dataset / "clips" / "a.mp4").write_bytes(b"a clip")
    folders.model.mkdir()
    (folders.model / "chat_template.jinja").write_text("{{ messages }}")
    (folders.model / "README.md").write_text("a model")
    return folders


def identity_of(folders: JobFolders, spec: TrainingSpec = SPEC, weights: str = "sha256:1") -> dict[str, Any]:
    base = cast(BaseModel, SimpleNamespace(fingerprint=weights))
    return run_identity(LocalRun(folders), spec, base, load_samples(folders.dataset))


def replace_clip(folders: JobFolders) -> None:
    (folders.dataset / "clips" / "a.mp4").write_bytes(b"another")


def replace_template(folders: JobFolders) -> None:
    (folders.model / "chat_template.jinja").write_text("{{ messages[0] }}")


def replace_rows(folders: JobFolders) -> None:
    (folders.dataset / "rows.jsonl").write_text(json.dumps({**ROW, "sample_id": "s1"}) + "\n")


@pytest.mark.parametrize(
    ("change", "named"), [(replace_clip, "clips"), (replace_template, "processor"), (replace_rows, "dataset")]
)
def test_what_was_replaced_under_its_name_makes_another_run(
    folders: JobFolders, change: Callable[[JobFolders], None], named: str
) -> None:
    save(folders, identity_of(folders))
    change(folders)
    assert_refused(folders, identity_of(folders), named)


def test_another_base_or_plugin_makes_another_run(folders: JobFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folders, identity_of(folders))
    assert_refused(folders, identity_of(folders, weights="sha256:2"), "base model")
    monkeypatch.setattr(temporal_aware_lora, "VERSION", temporal_aware_lora.VERSION + 1)
    assert_refused(folders, identity_of(folders), "plugin")


def test_what_changes_nothing_that_is_learned_makes_no_other_run(folders: JobFolders) -> None:
    identity = identity_of(folders)
    save(folders, {name: identity[name] for name in ("base model", "dataset", "specification")})
    (folders.model / "README.md").write_text("the same model")
    other = SPEC.with_overrides(["runtime.prefetch_batches=7", "keep_checkpoints=9"])
    found, _ = newest_checkpoint(folders.checkpoints, identity_of(folders, other))
    assert found is not None, "a checkpoint of a version that told less of its run"


def save(folders: JobFolders, identity: dict[str, Any]) -> None:
    write_checkpoint(folders.checkpoints, {}, lambda _: None, step=1, identity=identity, keep=KeepRule(1))


def assert_refused(folders: JobFolders, identity: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=f"a run with another {named}$"):
        newest_checkpoint(folders.checkpoints, identity)
