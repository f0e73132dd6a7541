"""DoRA, EVA, LoftQ and layers of their own rank: on 4-bit bases, in real runs, gone on from, read by stock peft."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from batches import decoded, one_batch, question
from peft import PeftModel
from recording_run import RecordingRun
from safetensors.torch import load_file, save_file

from trainer_svc.qlora.adapter_start import _follow_activations, start_adapter
from trainer_svc.qlora.base_weights import BaseWeights
from trainer_svc.qlora.data_processor import Batch, DataProcessor
from trainer_svc.qlora.errors import ModelRefusedError
from trainer_svc.qlora.inference import AdapterSet
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.messages import Completed, Log, Starting, StopReason
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.qlora_injector import check_gradients, inject, trainable
from trainer_svc.qlora.spec import QuantizationSpec, SpecError, TrainingSpec
from trainer_svc.qlora.trainer import train

CPU = torch.device("cpu")
EVERYWHERE = "lora.target_groups=language,projector,vision"
NewRun = Callable[..., RecordingRun]


def logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found = model(**inputs, use_cache=False).logits
    assert isinstance(found, torch.Tensor)
    return found


def weights(run: RecordingRun) -> dict[str, torch.Tensor]:
    return load_file(run.folders.adapter / "adapter_model.safetensors")


def running(model: Any) -> Callable[[Batch], torch.Tensor]:
    """Runs the model on a batch."""
    return lambda batch: summed_loss(model, batch, CPU)


def no_batches(count: int) -> Any:
    raise AssertionError("no data is needed")


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_with_dora_training_begins_with_the_base_model(
    model: str, request: pytest.FixtureRequest, spec: TrainingSpec
) -> None:
    base = load_base_model(request.getfixturevalue(model), QuantizationSpec())
    inputs = one_batch(base).inputs
    before = logits(base.model, inputs)
    adapted, report = inject(
        base, spec.with_overrides(["lora.use_dora=true", EVERYWHERE]).lora, seed=0, gradient_checkpointing=True
    )
    assert torch.allclose(logits(adapted, inputs), before, atol=1e-4)
    magnitudes = [name for name in trainable(adapted) if "magnitude" in name]
    assert len(magnitudes) == sum(report.layers.values())
    adapted.train()
    summed_loss(adapted, one_batch(base), CPU).backward()
    check_gradients(adapted)


def test_the_start_of_eva_is_the_base_model_and_leaves_no_trace_in_the_gradients(
    qwen3: Path, spec: TrainingSpec
) -> None:
    """It evaluates the 4-bit model without gradients: unguarded, bitsandbytes would repack its weights."""
    lora = spec.with_overrides(["lora.initialization=eva", EVERYWHERE]).lora
    base = load_base_model(qwen3, QuantizationSpec())
    batch = one_batch(base)
    before = logits(load_base_model(qwen3, QuantizationSpec()).model, batch.inputs)
    adapted, _ = inject(base, lora, seed=0, gradient_checkpointing=False)
    random = {name: value.clone() for name, value in trainable(adapted).items()}
    adapted.train()
    told = _follow_activations(base, adapted, [batch, batch], running(adapted), seed=1)
    assert told == f"adapter begins along the activations of 2 batches, in {len(random) // 2} layers (EVA)"
    assert adapted.training
    assert torch.equal(logits(adapted, batch.inputs), before)
    fresh_base = load_base_model(qwen3, QuantizationSpec())
    fresh, _ = inject(fresh_base, lora, seed=0, gradient_checkpointing=False)
    for (name, value), twin in zip(trainable(adapted).items(), trainable(fresh).values(), strict=True):
        if "lora_A" in name:
            assert not torch.equal(value, random[name])
            assert torch.allclose(value @ value.T, torch.eye(len(value)), atol=1e-4), name
        with torch.no_grad():
            if "lora_B" in name:
                value.copy_(torch.full_like(value, 0.01))
            twin.copy_(value)
    for each in (adapted, fresh):
        each.train()
        for module in each.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        summed_loss(each, batch, CPU).backward()
    for value, twin in zip(trainable(adapted).values(), trainable(fresh).values(), strict=True):
        assert value.grad is not None
        assert twin.grad is not None
        assert torch.allclose(value.grad, twin.grad, rtol=1e-4, atol=1e-6)


def test_eva_goes_along_what_varies_most_and_needs_no_more_tokens_than_there_are(
    qwen3: Path, spec: TrainingSpec
) -> None:
    """peft's own loops for ever when a batch has fewer tokens than a layer has ranks."""
    lora = spec.with_overrides(["lora.rank=64", "lora.initialization=eva"]).lora
    base = load_base_model(qwen3, QuantizationSpec())
    batch = one_batch(base)
    adapted, _ = inject(base, lora, seed=0, gradient_checkpointing=False)
    layer = next(module for name, module in adapted.named_modules() if name.endswith("layers.1.self_attn.q_proj"))
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    mask = batch.inputs["attention_mask"].bool()
    _follow_activations(base, adapted, [batch], running(adapted), seed=1)
    handle.remove()
    rows = seen[0][mask]
    rows = rows - rows.mean(dim=0)
    expected = torch.linalg.svd(rows, full_matrices=False).Vh[:4]
    found = layer.lora_A["default"].weight[:4]
    assert torch.allclose((expected @ found.T).abs().diagonal(), torch.ones(4), atol=1e-3)


@pytest.mark.parametrize("alpha", [4.0, 32.0])
def test_loftq_brings_the_weights_nearer_to_those_before_quantisation_at_any_scale(
    qwen3: Path, spec: TrainingSpec, alpha: float
) -> None:
    """peft's own function takes every scale for 1: at 8 it would make things much worse."""
    wanted = spec.with_overrides(["lora.initialization=loftq", f"lora.alpha={alpha}"]).validate()
    base = load_base_model(qwen3, QuantizationSpec())
    adapted, _ = inject(base, wanted.lora, seed=0, gradient_checkpointing=False)
    told = start_adapter(base, adapted, wanted, qwen3, no_batches, running(adapted))
    assert "14 layers" in told
    original = load_file(qwen3 / "model.safetensors")
    for name, module in adapted.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        frozen = module.get_base_layer().weight
        held = bnb.functional.dequantize_4bit(frozen.data, frozen.quant_state).float()
        lost = original[name.removeprefix("base_model.model.") + ".weight"].float() - held
        a, b = (getattr(module, name)["default"].weight.detach() for name in ("lora_A", "lora_B"))
        update = module.scaling["default"] * b @ a
        best = torch.linalg.svdvals(lost)[4:].norm()
        assert float((lost - update).norm()) == pytest.approx(float(best), rel=1e-3)
        assert float(best) < 0.97 * float(lost.norm())


def test_loftq_finds_weights_that_the_files_name_otherwise_and_takes_no_others_for_them(
    qwen3: Path, tmp_path: Path, spec: TrainingSpec
) -> None:
    tensors = load_file(qwen3 / "model.safetensors")
    old = {name.replace("model.language_model.layers", "model.layers"): value for name, value in tensors.items()}
    save_file(old, tmp_path / "model.safetensors")
    name = "model.language_model.layers.1.self_attn.q_proj"
    with BaseWeights(tmp_path) as files:
        assert torch.equal(files.of_layer(name, tensors[f"{name}.weight"]), tensors[f"{name}.weight"])
        with pytest.raises(ModelRefusedError, match="quantised from"):
            files.of_layer(name, torch.randn_like(tensors[f"{name}.weight"]))


@pytest.mark.parametrize(
    "changes",
    [
        ["lora.use_dora=true", EVERYWHERE],
        ["lora.initialization=eva", "lora.use_dora=true"],
        ["lora.initialization=eva", "lora.target_groups=vision", "lora.temporal_groups=vision"],
        ["lora.initialization=loftq", "lora.use_rslora=true"],
        ['lora.layer_patterns=[{"pattern": "*.q_proj", "rank": 2}, {"pattern": "*.0.*", "rank": 8, "alpha": 4}]'],
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_run_that_was_broken_and_goes_on_equals_one_that_was_not(
    new_run: NewRun, spec: TrainingSpec, changes: list[str], qwen3: Path
) -> None:
    wanted = spec.with_overrides([*changes, "optimization.epochs=2"])
    whole, broken = new_run("whole"), new_run("broken")
    train(whole, wanted)
    assert isinstance(whole.last, Completed)
    losses = whole.series("loss")
    assert losses[4] < losses[1]
    broken.stop_after = (1, StopReason.DRAIN)
    train(broken, wanted)
    resumed = new_run("broken")
    train(resumed, wanted)
    one, two = weights(whole), weights(resumed)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert broken.series("loss") | resumed.series("loss") == losses
    # What takes time before the first step is done once, and told.
    starts = [message.phase for message in whole.messages if isinstance(message, Starting)]
    assert ("initialization" in starts) == (wanted.lora.initialization != "default")
    assert "initialization" not in [message.phase for message in resumed.messages if isinstance(message, Starting)]
    _same_answers_everywhere(whole, qwen3, is_stock=not wanted.lora.temporal_groups)


def _same_answers_everywhere(run: RecordingRun, model: Path, *, is_stock: bool) -> None:
    """Ours and stock peft read the folder alike."""
    base = load_base_model(model, QuantizationSpec())
    inputs = one_batch(base).inputs
    with AdapterSet(base, limit=1).active(str(run.folders.adapter)) as ours:
        expected = logits(ours, inputs)
    if is_stock:
        stock = PeftModel.from_pretrained(load_base_model(model, QuantizationSpec()).model, run.folders.adapter)
        assert torch.allclose(logits(stock, inputs), expected, atol=1e-5)


def test_layers_get_the_rank_and_the_scale_of_the_first_pattern_that_fits(qwen3: Path, spec: TrainingSpec) -> None:
    patterns = '[{"pattern": "*.q_proj", "rank": 2}, {"pattern": "*.layers.0.*", "rank": 8, "alpha": 4}]'
    lora = spec.with_overrides(["lora.alpha=12", f"lora.layer_patterns={patterns}"]).lora
    base = load_base_model(qwen3, QuantizationSpec())
    adapted, _ = inject(base, lora, seed=0, gradient_checkpointing=False)
    found = {
        name.removeprefix("base_model.model.model.language_model.layers."): (
            module.r["default"],
            module.scaling["default"],
        )
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found["0.self_attn.q_proj"] == (2, 6.0)
    assert found["1.self_attn.q_proj"] == (2, 6.0)
    assert found["0.mlp.up_proj"] == (8, 0.5)
    assert found["1.mlp.up_proj"] == (4, 3.0)


def test_a_pattern_that_fits_no_adapted_layer_is_refused_by_name(new_run: NewRun, spec: TrainingSpec) -> None:
    patterns = 'lora.layer_patterns=[{"pattern": "*.q_proj", "rank": 2}, {"pattern": "*.visual.*", "rank": 2}]'
    with pytest.raises(SpecError, match=r"lora\.layer_patterns\[1\]: '\*\.visual\.\*' fits none of the 14"):
        train(new_run(), spec.with_overrides([patterns]))


def test_what_was_done_before_the_first_step_is_told(new_run: NewRun, spec: TrainingSpec) -> None:
    run = new_run()
    train(run, spec.with_overrides(["lora.initialization=eva", "optimization.max_steps=1"]))
    told = [message.text for message in run.messages if isinstance(message, Log)]
    assert told[-1] == "adapter begins along the activations of 16 batches, in 14 layers (EVA)"


@pytest.mark.parametrize("optimizer", ["paged_adamw", "paged_adamw_8bit"])
def test_a_paged_optimizer_is_refused_where_it_would_silently_be_an_ordinary_one(
    new_run: NewRun, spec: TrainingSpec, optimizer: str
) -> None:
    with pytest.raises(SpecError, match=r"needs a CUDA device, and this machine trains on its CPU"):
        train(new_run(), spec.with_overrides([f"optimization.optimizer={optimizer}"]))


def test_batches_of_other_lengths_are_followed_as_well(qwen3: Path, spec: TrainingSpec) -> None:
    """Padding is no activation of anything."""
    base = load_base_model(qwen3, QuantizationSpec())
    processor = DataProcessor(base.processor)
    short, long = (
        processor.encode(question(f"s{number}", "x" * number), [decoded((0.0, 0.5), seed=3)]) for number in (1, 60)
    )
    found = []
    for batches in ([processor.collate([short]), processor.collate([long])], [processor.collate([short, long])]):
        fresh = load_base_model(qwen3, QuantizationSpec())
        adapted, _ = inject(fresh, spec.lora, seed=0, gradient_checkpointing=False)
        _follow_activations(fresh, adapted, batches, running(adapted), seed=1)
        found.append([value for name, value in trainable(adapted).items() if "lora_A" in name])
    for number, apart, together in zip(count(), *found, strict=False):
        agreement = torch.linalg.svdvals(apart @ together.T)
        assert float(agreement[0].detach()) > 0.99, number
