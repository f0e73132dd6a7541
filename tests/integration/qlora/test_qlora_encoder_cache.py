"""The encoder's outputs on disk: found, never wrong, and never to be noticed in what is learned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_run import RecordingRun
from safetensors.torch import load_file
from tiny_families import save_internvl, save_llava_onevision, save_smolvlm, save_video_llama_3
from tiny_models import row, save_qwen2_5_vl, save_qwen3_vl, write_clip, write_dataset

from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.frozen_encoder import FrozenEncoder, why_not_frozen
from trainer_svc.qlora.messages import Completed, Log, StopReason
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.qlora_injector import inject, prepare
from trainer_svc.qlora.run_context import JobFolders
from trainer_svc.qlora.spec import LoraSpec, QuantizationSpec, TrainingSpec
from trainer_svc.qlora.trainer import train

HITS = "encoder_cache_hit_fraction"
SAVE: dict[str, Callable[[Path], Path]] = {
    "internvl": save_internvl,
    "llava_onevision": save_llava_onevision,
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen3_vl": save_qwen3_vl,
    "smolvlm": save_smolvlm,
    "video_llama_3": save_video_llama_3,
}


class CachedRun(RecordingRun):
    """A run beside whose out folder others can keep what they compute."""

    def __init__(self, model: Path, data: Path, work: Path, name: str) -> None:
        super().__init__(model, data, work / name)
        self.folders = JobFolders(model, data, work / name, work / "cache")

    @property
    def told(self) -> list[str]:
        return [message.text for message in self.messages if isinstance(message, Log)]

    @property
    def files(self) -> list[Path]:
        return sorted(self.folders.encoder_cache.glob("*/*"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 samples and a held-out one: two ask about one clip, the others about clips of unlike length."""
    folder = tmp_path_factory.mktemp("clips")
    frames = {"a": 4, "b": 3, "c": 12}
    for name, count in frames.items():
        write_clip(folder / "clips" / f"{name}.mp4", frames=count, colour=(255, 20 * count, 0))
    asked = [
        ("s0", "a", "train"),
        ("s1", "a", "train"),
        ("s2", "b", "train"),
        ("s3", "c", "train"),
        ("e0", "b", "eval"),
    ]
    rows = [row(sample, f"{clip}.mp4", f"{sample}?", "red" * len(sample), split=split) for sample, clip, split in asked]
    (folder / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    return folder


@pytest.fixture(scope="module")
def short(spec: TrainingSpec) -> TrainingSpec:
    """2 epochs of 2 steps, with dropout."""
    return spec.with_overrides(["optimization.gradient_accumulation_steps=1", "optimization.epochs=2"])


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips that are sent to be decoded, as they are."""
    seen: list[str] = []
    decode = DecodePool.decode

    def noted(self: DecodePool, clip: Path | str, request: Any) -> Any:
        seen.append(Path(clip).name)
        return decode(self, clip, request)

    monkeypatch.setattr(DecodePool, "decode", noted)
    return seen


def trained(run: CachedRun, spec: TrainingSpec) -> tuple[Any, ...]:
    """All that is learned, to the last bit."""
    train(run, spec)
    assert isinstance(run.last, Completed)
    weights = load_file(run.folders.adapter / "adapter_model.safetensors")
    return run.series("loss"), run.series("grad_norm"), run.series("eval_loss"), bits(weights)


def bits(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in weights.items()}


@pytest.mark.parametrize("family", sorted(SAVE))
def test_what_is_learned_is_the_same_without_it_while_it_fills_and_when_it_is_full(
    family: str, clips: Path, tmp_path: Path, short: TrainingSpec, decodes: list[str]
) -> None:
    model = SAVE[family](tmp_path / "model")
    without, filling, full = (CachedRun(model, clips, tmp_path, name) for name in ("without", "filling", "full"))
    expected = trained(without, short.with_overrides(["runtime.encoder_cache=off"]))
    assert without.files == []
    decodes.clear()
    assert trained(filling, short) == expected
    assert set(decodes) == {"a.mp4", "b.mp4", "c.mp4"}
    assert [filling.series(HITS)[step] for step in (3, 4)] == [1.0, 1.0]
    decodes.clear()
    assert trained(full, short) == expected
    assert decodes == []
    assert set(full.series(HITS).values()) == {1.0}


@pytest.mark.parametrize("group", ["vision", "projector"])
def test_nothing_is_cached_where_an_adapter_lies_before_the_outputs(
    group: str, qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    run = CachedRun(qwen3, clips, tmp_path, "out")
    trained(run, short.with_overrides([f"lora.target_groups=language,{group}", "optimization.max_steps=1"]))
    assert run.files == []
    assert any("not cached: model.visual" in line and "is trained" in line for line in run.told)
    assert run.series(HITS) == {}


def test_frames_that_are_other_ones_in_each_epoch_are_not_cached(
    qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    run = CachedRun(qwen3, clips, tmp_path, "out")
    trained(run, short.with_overrides(["sampling.placement=segment_jitter", "optimization.max_steps=1"]))
    assert run.files == []
    assert any("not cached: each epoch takes other frames" in line for line in run.told)


def test_a_weight_that_wants_a_gradient_is_enough_whatever_was_asked_for(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    inject(base, LoraSpec(rank=4), seed=0, gradient_checkpointing=True)
    assert why_not_frozen(base) is None
    base.model.model.visual.merger.linear_fc2.bias.requires_grad_(True)
    assert why_not_frozen(base) == (
        "model.visual.merger.linear_fc2.bias is trained, and the language model's input depends on it"
    )
    unknown = replace(base, family=replace(base.family, encoder=None))
    assert "it is not known how" in str(why_not_frozen(unknown))


def test_adapters_of_the_language_model_that_mix_along_time_find_their_frames(
    qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    """Without pixels among the inputs they would take the batch for one without clips, and not mix."""
    temporal = short.with_overrides(["lora.temporal_groups=language"])
    runs = [CachedRun(qwen3, clips, tmp_path, name) for name in ("filling", "full")]
    learned = [trained(run, temporal) for run in runs]
    assert learned[0] == learned[1]
    mixing = load_file(runs[1].folders.adapter / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in mixing.items() if "temporal" in name)


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_a_resumed_run_learns_the_same_whether_or_not_the_cache_is_warm(
    is_warm: bool, qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    unbroken = CachedRun(qwen3, clips, tmp_path / "elsewhere", "out")
    *_, expected = trained(unbroken, short)
    stopped = CachedRun(qwen3, clips, tmp_path, "out")
    stopped.stop_after = (3, StopReason.DRAIN)
    train(stopped, short)
    if not is_warm:
        shutil.rmtree(stopped.folders.encoder_cache)
    resumed = CachedRun(qwen3, clips, tmp_path, "out")
    *_, weights = trained(resumed, short)
    assert weights == expected
    assert set(resumed.series("loss")) == {4}


def test_damaged_files_are_made_anew_and_told(qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec) -> None:
    first, second, third = (CachedRun(qwen3, clips, tmp_path, name) for name in ("first", "second", "third"))
    expected = trained(first, short)
    files = first.files
    assert len(files) == 3 + 5
    for number, file in enumerate(files):
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(bytes(content[: len(content) // 2 if number % 2 else None]))
    assert trained(second, short) == expected
    told = [line for line in second.told if "is damaged and made anew" in line]
    assert sorted(line.split()[3] for line in told) == [file.name for file in files]
    assert trained(third, short) == expected
    assert set(third.series(HITS).values()) == {1.0}


def test_other_frames_and_other_bytes_of_a_clip_are_never_taken_for_the_same(
    qwen3: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    data = write_dataset(tmp_path / "data", samples=2)
    cached = short.with_overrides(["optimization.max_steps=1"])
    assert set(_hits(CachedRun(qwen3, data, tmp_path, "first"), cached)) == {0.0}
    assert set(_hits(CachedRun(qwen3, data, tmp_path, "again"), cached)) == {1.0}
    assert set(_hits(CachedRun(qwen3, data, tmp_path, "fewer"), cached.with_overrides(["sampling.max_frames=2"]))) == {
        0.0
    }
    shutil.copyfile(data / "clips" / "1.mp4", data / "clips" / "0.mp4")
    assert set(_hits(CachedRun(qwen3, data, tmp_path, "alike"), cached)) == {1.0}
    write_clip(data / "clips" / "0.mp4", colour=(0, 255, 0))
    assert set(_hits(CachedRun(qwen3, data, tmp_path, "other"), cached)) == {0.5}
    other_weights = Path(shutil.copytree(qwen3, tmp_path / "model"))
    _nudge(other_weights / "model.safetensors")
    assert set(_hits(CachedRun(other_weights, data, tmp_path, "weights"), cached)) == {0.0}


def test_it_keeps_within_its_bound_and_what_does_not_fit_is_computed(
    qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    run = CachedRun(qwen3, clips, tmp_path, "out")
    expected = trained(CachedRun(qwen3, clips, tmp_path / "elsewhere", "out"), short)
    assert trained(run, short.with_overrides(["runtime.encoder_cache_mib=0"])) == expected
    assert run.files == []


def test_a_run_goes_on_where_the_disk_takes_nothing(
    qwen3: Path, clips: Path, tmp_path: Path, short: TrainingSpec
) -> None:
    run = CachedRun(qwen3, clips, tmp_path, "out")
    (tmp_path / "cache").write_text("a file where the folder should be")
    trained(run, short)
    assert sum("nothing more is cached" in line for line in run.told) == 1


def test_a_small_clip_is_encoded_on_few_threads_and_always_on_as_many(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    prepare(base.model, gradient_checkpointing=False)
    encoder, threads = FrozenEncoder(base), list[int]()
    base.model.model.visual.register_forward_pre_hook(lambda *_: threads.append(torch.get_num_threads()))
    values = base.model.model.visual.patch_embed.proj.weight[0].numel()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for side in (4, 4, 64, 4):
            pixels = torch.zeros(2 * side * side, values)
            encoder.encode({"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[2, side, side]])})
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1, 3, 1]


def test_only_the_parts_that_are_trained_recompute_their_activations(qwen3: Path) -> None:
    def recomputing(groups: tuple[Any, ...]) -> dict[str, bool]:
        base = load_base_model(qwen3, QuantizationSpec())
        inject(base, LoraSpec(rank=4, target_groups=groups), seed=0, gradient_checkpointing=True)
        inner = base.model.model
        return {
            "vision": inner.visual.blocks[0].gradient_checkpointing,
            "language": inner.language_model.layers[0].gradient_checkpointing,
        }

    assert recomputing(("language",)) == {"vision": False, "language": True}
    assert recomputing(("language", "projector")) == {"vision": True, "language": True}
    assert recomputing(("vision",)) == {"vision": True, "language": True}


def test_a_base_that_another_job_recomputed_in_does_not_go_on_with_it(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec())
    prepare(base.model, gradient_checkpointing=True)
    prepare(base.model, gradient_checkpointing=False)
    assert not base.model.is_activation_checkpointing


def _hits(run: CachedRun, spec: TrainingSpec) -> list[float]:
    train(run, spec)
    return list(run.series(HITS).values())


def _nudge(weights: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(weights)
    tensors["model.visual.patch_embed.proj.bias"][0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
