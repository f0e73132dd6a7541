from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from batches import one_batch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from trainer_svc.qlora.errors import GradientAuditError, ModelAuditError, ModelRefusedError
from trainer_svc.qlora.families import FAMILIES, ModelFamily, find_family
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.model_loader import BaseModel, audit_model, guard_cpu_quantization, load_base_model
from trainer_svc.qlora.qlora_injector import check_gradients, inject, target_pattern, trainable
from trainer_svc.qlora.spec import ComputeDtype, LoraSpec, QuantizationSpec, SpecError

CPU = torch.device("cpu")
NF4 = QuantizationSpec()
DENSE = QuantizationSpec(bits=16)
EVERYWHERE = LoraSpec(rank=4, dropout=0.0, target_groups=("language", "projector", "vision"))
LANGUAGE = LoraSpec(rank=4, dropout=0.0)
TOLERANCE = 1e-5
"""Greatest difference of loss and gradients between the NF4 path and the dense model, relative to the largest."""


def gradients(model: Any, base: BaseModel, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad(set_to_none=True)
    loss = summed_loss(model, batch, base.device) / batch.target_tokens
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in trainable(model).items() if value.grad is not None}


def randomise(model: Any) -> None:
    """B is zero at first, and with it the gradient of A: give both something to say."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def dequantised(base: BaseModel) -> BaseModel:
    """The same model with every 4-bit layer made dense from its own dequantised weights."""
    model = copy.deepcopy(base.model)
    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            dense = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            dense.weight = nn.Parameter(weight.to(base.compute_dtype))
            if module.bias is not None:
                dense.bias = nn.Parameter(module.bias.data.clone())
            model.set_submodule(name, dense)
    # peft asks the model whether its layers are 4-bit.
    model.is_loaded_in_4bit = False
    return BaseModel(
        model, base.processor, base.family, CPU, base.compute_dtype, base.fingerprint, DENSE, base.audit, base.config
    )


def assert_equal_gradients(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    largest = max(float(value.abs().max()) for value in one.values())
    assert largest > 0
    for name in one:
        assert float((one[name] - two[name]).abs().max()) <= TOLERANCE * largest, name


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_only_the_language_models_linear_layers_are_quantised(model: str, request: pytest.FixtureRequest) -> None:
    base = load_base_model(request.getfixturevalue(model), NF4)
    linears = base.audit.linears
    assert linears["language"] == (14, 0)
    assert linears["vision"][0] == linears["projector"][0] == linears["head"][0] == 0
    assert linears["vision"][1] >= 8
    assert linears["head"][1] == 1
    assert base.audit.quantized_layers == 14
    assert base.audit.parameters == sum(
        p.numel() for p in load_base_model(request.getfixturevalue(model), DENSE).model.parameters()
    )


def test_the_vision_tower_is_quantised_when_asked(qwen3: Path) -> None:
    linears = load_base_model(qwen3, QuantizationSpec(quantize_vision=True)).audit.linears
    assert linears["vision"][1] == 0
    assert linears["projector"][0] == linears["head"][0] == 0


def test_without_quantisation_nothing_is(qwen3: Path) -> None:
    assert load_base_model(qwen3, DENSE).audit.quantized_layers == 0


@pytest.mark.parametrize("skipped", [["visual"], ["lm_head"], ["model.visual"], None])
def test_the_audit_catches_skip_patterns_that_skip_something_else(qwen3: Path, skipped: list[str] | None) -> None:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    model = AutoModelForImageTextToText.from_pretrained(qwen3, quantization_config=config, dtype=torch.float32)
    with pytest.raises(ModelAuditError, match="4-bit and should be unquantised"):
        audit_model(model, FAMILIES["qwen3_vl"], NF4, torch.float32)


@pytest.mark.parametrize("double", [True, False])
def test_the_constants_of_quantisation_are_quantised_when_asked_and_other_4_bit_types_are_caught(
    qwen3: Path, double: bool
) -> None:
    wanted = QuantizationSpec(double_quantization=double)
    base = load_base_model(qwen3, wanted)
    states = [module.weight.quant_state for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(states) == 14
    assert {state.nested for state in states} == {double}
    states[-1].quant_type = "fp4"
    with pytest.raises(ModelAuditError, match="is 4-bit but not NF4: fp4"):
        audit_model(base.model, base.family, wanted, torch.float32)


def test_the_audit_catches_wrong_types(qwen3: Path) -> None:
    base = load_base_model(qwen3, NF4)
    base.model.model.visual.half()
    with pytest.raises(ModelAuditError, match=r"torch\.float16 and should be torch\.float32"):
        audit_model(base.model, base.family, NF4, torch.float32)


def test_in_bf16_everything_unquantised_is_bf16_and_adapters_are_fp32(qwen3: Path) -> None:
    base = load_base_model(qwen3, QuantizationSpec(compute_dtype="bf16"))
    assert base.compute_dtype is torch.bfloat16
    model, _ = inject(base, LANGUAGE, seed=0, gradient_checkpointing=True)
    assert {value.dtype for value in trainable(model).values()} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "visual" in name} == {torch.bfloat16}
    loss, grads = gradients(model, base, one_batch(base))
    in_fp32 = load_base_model(qwen3, NF4)
    with torch.no_grad():
        batch = one_batch(in_fp32)
        assert loss == pytest.approx(float(summed_loss(in_fp32.model, batch, CPU)) / batch.target_tokens, rel=0.02)
    assert all(torch.isfinite(grad).all() for grad in grads.values())


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_nf4_loss_and_gradients_equal_those_of_the_dequantised_dense_model(
    model: str, checkpointing: bool, request: pytest.FixtureRequest
) -> None:
    base = load_base_model(request.getfixturevalue(model), NF4)
    dense = dequantised(base)
    batch = one_batch(base)
    results = []
    for each in (base, dense):
        adapted, _ = inject(each, EVERYWHERE, seed=0, gradient_checkpointing=checkpointing)
        randomise(adapted)
        results.append(gradients(adapted, each, batch))
        # And once more after an evaluation, which must leave no trace.
        adapted.eval()
        with torch.no_grad():
            summed_loss(adapted, batch, CPU)
        results.append(gradients(adapted, each, batch))
    (loss, grads), *others = results
    for other_loss, other_grads in others:
        assert other_loss == pytest.approx(loss, rel=TOLERANCE)
        assert_equal_gradients(grads, other_grads)


@pytest.mark.skipif(not bnb.functional.has_avx512bf16(), reason="this CPU has no AVX512-BF16, so nothing is repacked")
@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered:UserWarning")
def test_without_the_guard_an_evaluation_corrupts_the_gradients(qwen3: Path) -> None:
    """Shows that the guard is needed; when this fails, bitsandbytes has repaired it."""
    base = load_base_model(qwen3, NF4)
    for module in base.model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = True
    adapted, _ = inject(base, LANGUAGE, seed=0, gradient_checkpointing=False)
    randomise(adapted)
    batch = one_batch(base)
    _, before = gradients(adapted, base, batch)
    adapted.eval()
    with torch.no_grad():
        summed_loss(adapted, batch, CPU)
    _, after = gradients(adapted, base, batch)
    with pytest.raises(AssertionError):
        assert_equal_gradients(before, after)


@pytest.mark.parametrize("wrong", [96, 256])
def test_a_configuration_of_another_width_is_caught(qwen3: Path, tmp_path: Path, wrong: int) -> None:
    """bitsandbytes stores 4-bit weights flat, and so loads them into a layer of any width."""
    folder = Path(shutil.copytree(qwen3, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = wrong
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelAuditError, match=r"mlp.*weights of shape \(128, 64\), and config.json says"):
        load_base_model(folder, NF4)


def test_the_guard_covers_every_layer(qwen3: Path) -> None:
    base = load_base_model(qwen3, NF4)
    layers = [module for module in base.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    layers[0].support_avx512bf16_for_cpu = True
    guard_cpu_quantization(base.model)
    assert not layers[0].support_avx512bf16_for_cpu


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_quantised_model_holds_nothing_of_its_checkpoint(qwen3: Path, dtype: ComputeDtype) -> None:
    base = load_base_model(qwen3, QuantizationSpec(compute_dtype=dtype))
    assert str(qwen3) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert base.model.get_input_embeddings().weight.isfinite().all()


def test_before_the_first_step_the_adapted_model_is_the_base_model(qwen3: Path) -> None:
    base = load_base_model(qwen3, NF4)
    batch = one_batch(base)
    with torch.no_grad():
        before = base.model(**batch.inputs).logits
        adapted, _ = inject(base, EVERYWHERE, seed=0, gradient_checkpointing=True)
        after = adapted.eval()(**batch.inputs).logits
    assert torch.equal(before, after)


@pytest.mark.parametrize("model", ["qwen3", "qwen2_5"])
def test_targets_are_the_linear_layers_of_their_group_and_nothing_else(
    model: str, request: pytest.FixtureRequest
) -> None:
    base = load_base_model(request.getfixturevalue(model), NF4)
    for group in ("language", "projector", "vision"):
        fresh = load_base_model(request.getfixturevalue(model), NF4)
        expected = sum(base.audit.linears[group])
        _, report = inject(fresh, LoraSpec(rank=2, target_groups=(group,)), seed=0, gradient_checkpointing=False)
        assert report.layers == {group: expected}
    assert "patch_embed" in target_pattern(base.model, base.family, ("vision",))


def test_a_group_without_linear_layers_is_refused(qwen3: Path) -> None:
    base = load_base_model(qwen3, NF4)
    family = ModelFamily("x", ("model.visual",), ("model.visual.patch_embed",), ("model.language_model",))
    with pytest.raises(SpecError, match="projector"):
        target_pattern(base.model, family, ("projector",))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("reentrant", [False, True], ids=["ours", "reentrant"])
def test_reentrant_checkpointing_would_lose_the_towers_gradients_and_is_caught(qwen3: Path, reentrant: bool) -> None:
    base = load_base_model(qwen3, NF4)
    adapted, _ = inject(base, EVERYWHERE, seed=0, gradient_checkpointing=True)
    if reentrant:
        base.model.activation_checkpointing_enable({"use_reentrant": True})
        base.model.enable_input_require_grads()
    gradients(adapted, base, one_batch(base))
    if reentrant:
        with pytest.raises(GradientAuditError, match=r"visual.* got no gradient"):
            check_gradients(adapted)
    else:
        check_gradients(adapted)


def test_a_gradient_that_is_not_finite_is_caught(qwen3: Path) -> None:
    base = load_base_model(qwen3, NF4)
    adapted, _ = inject(base, LANGUAGE, seed=0, gradient_checkpointing=False)
    gradients(adapted, base, one_batch(base))
    next(iter(trainable(adapted).values())).grad.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(GradientAuditError, match="not finite"):
        check_gradients(adapted)


@pytest.fixture
def copied(qwen3: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen3, tmp_path / "model"))


def test_a_model_whose_weights_are_not_all_there_is_refused(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelRefusedError, match="weights"):
        load_base_model(copied, NF4)


def test_a_model_of_another_shape_than_its_config_is_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"].pop("layer_types", None)
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelRefusedError, match="lack"):
        load_base_model(copied, NF4)


def test_a_model_without_a_processor_is_refused(copied: Path) -> None:
    (copied / "processor_config.json").unlink()
    with pytest.raises(ModelRefusedError, match="processor"):
        load_base_model(copied, NF4)


@pytest.mark.parametrize("model_type", ["bert", "no_such_model"])
def test_what_is_no_video_text_model_is_refused(copied: Path, model_type: str) -> None:
    (copied / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelRefusedError, match=model_type):
        load_base_model(copied, NF4)


def test_unknown_families_are_probed_by_module_names_or_refused() -> None:
    inner = nn.Module()
    inner.vision_tower, inner.multi_modal_projector, inner.language_model = (
        nn.Linear(2, 2),
        nn.Linear(2, 2),
        nn.Linear(2, 2),
    )
    model = nn.Module()
    model.model = inner
    family = find_family("brand_new", model)
    assert family.probed
    assert (family.vision, family.projector, family.language) == (
        ("model.vision_tower",),
        ("model.multi_modal_projector",),
        ("model.language_model",),
    )
    with pytest.raises(ModelRefusedError, match=r"brand_new.*qwen2_5_vl, qwen2_vl, qwen3_vl"):
        find_family("brand_new", nn.Module())
    with pytest.raises(ModelRefusedError, match=r"should have model\.visual"):
        find_family("qwen3_vl", model)
