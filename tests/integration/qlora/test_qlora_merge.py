"""Merges of a really trained adapter, loaded again by plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import json_format
from recording_run import RecordingRun
from reeltune.scheduler.v1 import merge_pb2
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from trainer_svc.qlora.after_training_spec import MergeSpec, MergeWeights
from trainer_svc.qlora.dataset_rows import load_samples
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.inference import AdapterSet
from trainer_svc.qlora.merge import merge
from trainer_svc.qlora.merge_check import token_logits
from trainer_svc.qlora.messages import Completed, Log, Progress, Stopped, StopReason
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.trainer import train

Runs = Callable[..., RecordingRun]


def report_of(run: RecordingRun) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run.folders.out / "artifact" / "reeltune_merge.json").read_text())
    return report


@pytest.fixture(scope="module")
def merged(
    qwen3: Path, dataset: Path, colour_adapter: Path, spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory
) -> RecordingRun:
    run = RecordingRun(qwen3, dataset, tmp_path_factory.mktemp("merged"))
    merge(run, spec, MergeSpec(), colour_adapter)
    return run


def test_plain_transformers_says_what_the_adapter_says(
    merged: RecordingRun, qwen3: Path, dataset: Path, colour_adapter: Path, spec: TrainingSpec
) -> None:
    folder = merged.folders.out / "artifact"
    base, sample = load_base_model(qwen3, spec.quantization), load_samples(dataset)[1]
    with DecodePool(workers=1, timeout_seconds=30, decoder="auto") as pool:
        adapters = AdapterSet(base, 1)
        with adapters.active(str(colour_adapter)) as tuned:
            expected = token_logits(tuned, base, sample, pool, spec)
        with adapters.active(None) as plain:
            untuned = token_logits(plain, base, sample, pool, spec)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        AutoProcessor.from_pretrained(folder)
        said = token_logits(model.eval(), replace(base, model=model), sample, pool, spec)

    near = (said.logits - expected.logits).abs().max()
    assert (said.logits.argmax(1) == expected.targets).all(), "it has learned the answer"
    assert near < 0.1 * (said.logits - untuned.logits).abs().max()
    assert not hasattr(model, "peft_config")
    assert model.config.to_dict().get("quantization_config") is None


def test_it_is_a_plain_folder_in_bf16(merged: RecordingRun, qwen3: Path) -> None:
    assert isinstance(merged.last, Completed)
    folder = Path(merged.last.adapter_dir)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "reeltune_merge.json"} <= names
    assert {path.name for path in qwen3.iterdir()} <= names, "tokenizer, processor and chat template come along"
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors.keys() == load_file(qwen3 / "model.safetensors").keys()
    assert not (merged.folders.out / "logits").exists()
    steps = [message.step for message in merged.messages if isinstance(message, Progress)]
    assert steps == list(range(1, steps[-1] + 1))
    assert json_format.ParseDict(report_of(merged), merge_pb2.Merge()).rows == 8


def test_the_report_tells_how_near_it_is_and_how_far_it_has_come(merged: RecordingRun) -> None:
    report = report_of(merged)

    assert report["weights"] == "MERGE_WEIGHTS_DEQUANTIZED"
    assert report["layers"] == 14
    assert report["adapter_agreement"] == 1.0
    assert report["base_agreement"] < 1.0
    assert report["adapter_logit_difference"] < 0.1 * report["base_logit_difference"]
    assert report["merged_loss"] == pytest.approx(report["adapter_loss"], abs=0.05)
    assert report["update_error"] < 0.2
    assert not report["notes"]


def test_into_the_original_weights_it_warns_and_tells_the_error(
    new_run: Runs, merged: RecordingRun, colour_adapter: Path, spec: TrainingSpec
) -> None:
    run = new_run()
    merge(run, spec, MergeSpec(MergeWeights.ORIGINAL, split="train"), colour_adapter)

    report, expanded = report_of(run), report_of(merged)
    assert report["update_error"] > 2 * expanded["update_error"]
    assert report["adapter_logit_difference"] > expanded["adapter_logit_difference"]
    assert "has never seen" in report["notes"][0]
    assert "split `train`" in report["notes"][-1]
    warned = [message.text for message in run.messages if isinstance(message, Log) and message.level == "warning"]
    assert report["notes"] == warned


def test_a_stop_leaves_nothing(new_run: Runs, colour_adapter: Path, spec: TrainingSpec) -> None:
    run = new_run()
    run.stop_after = 3, StopReason.USER
    merge(run, spec, MergeSpec(), colour_adapter)

    assert run.last == Stopped(StopReason.USER, 0, None, None, None)
    assert not (run.folders.out / "artifact").exists()
    assert not (run.folders.out / "logits").exists()


def test_no_rows_to_hold_it_against_are_told(
    qwen3: Path, colour_adapter: Path, spec: TrainingSpec, tmp_path: Path
) -> None:
    (tmp_path / "dataset" / "clips").mkdir(parents=True)
    (tmp_path / "dataset" / "rows.jsonl").write_text("")
    with pytest.raises(BadDataError, match="no row"):
        merge(RecordingRun(qwen3, tmp_path / "dataset", tmp_path / "out"), spec, MergeSpec(), colour_adapter)


def test_a_temporal_adapter_is_refused_by_name(new_run: Runs, spec: TrainingSpec) -> None:
    trained = new_run("temporal")
    train(trained, spec.with_overrides(["lora.temporal_groups=language", "optimization.max_steps=1"]))

    with pytest.raises(BadDataError, match="temporal_groups"):
        merge(new_run("out"), spec, MergeSpec(), trained.folders.adapter)


def test_an_adapter_that_learned_nothing_is_refused(
    new_run: Runs, colour_adapter: Path, spec: TrainingSpec, tmp_path: Path
) -> None:
    for path in colour_adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "adapter_model.safetensors"
    zeros = {name: tensor * (".lora_A." in name) for name, tensor in load_file(weights).items()}
    save_file(zeros, weights)

    with pytest.raises(BadDataError, match="changes nothing"):
        merge(new_run(), spec, MergeSpec(), tmp_path)
