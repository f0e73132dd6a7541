"""Loads a base model for QLoRA from a local folder, and proves that it was loaded as asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

from trainer_svc.qlora.errors import ModelAuditError, ModelRefusedError
from trainer_svc.qlora.families import ModelFamily, find_family
from trainer_svc.qlora.model_folder import check_model_folder, fingerprint, max_positions
from trainer_svc.qlora.processor_loader import first_line, load_processor
from trainer_svc.qlora.quiet import quiet_transformers
from trainer_svc.qlora.spec import ComputeDtype, QuantizationSpec, SpecError, TargetGroup

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


LoadBase = Callable[[Path, QuantizationSpec], "BaseModel"]
"""What `load_base_model` does."""


@dataclass(frozen=True, slots=True)
class ModelAudit:
    """Linear layers of each part, as (quantised, unquantised)."""

    linears: dict[str, tuple[int, int]]
    parameters: int

    @property
    def quantized_layers(self) -> int:
        return sum(quantized for quantized, _ in self.linears.values())


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded base model; its weights are frozen by `qlora_injector.prepare`, not here."""

    model: Any
    processor: Any
    family: ModelFamily
    device: torch.device
    compute_dtype: torch.dtype
    fingerprint: str
    quantization: QuantizationSpec
    audit: ModelAudit
    config: dict[str, Any] = field(repr=False)

    @property
    def max_positions(self) -> int:
        """Longest sequence in tokens that the model was built for; 0 when its configuration does not say."""
        return max_positions(self.config)

    @property
    def device_name(self) -> str:
        """As a person calls it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"

    @property
    def end_tokens(self) -> list[int]:
        """What ends an answer, by the model's own generation settings and by its tokenizer."""
        declared = self.model.generation_config.eos_token_id
        tokens = {*(declared if isinstance(declared, list) else [declared]), self.processor.tokenizer.eos_token_id}
        return sorted(token for token in tokens if token is not None)


def load_base_model(folder: Path, quantization: QuantizationSpec, device: torch.device | None = None) -> BaseModel:
    """Loads, guards and audits the model in `folder`; `device` None: the first CUDA device, else the CPU.

    Raises `ModelRefusedError` for a folder that must not or cannot be loaded, `SpecError` for a compute type that the
    device lacks, `ModelAuditError` when quantisation went elsewhere than it should. Never runs code from the folder
    and never goes online.
    """
    quiet_transformers()
    config = check_model_folder(folder)
    device = device or torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    dtype = compute_dtype(quantization, device)
    family = _family_of(folder, config["model_type"])
    model = _load_weights(folder, quantization, family, device, dtype)
    guard_cpu_quantization(model)
    if quantization.bits == 4:
        let_go_of_checkpoint(model)
    audit = audit_model(model, family, quantization, dtype)
    return BaseModel(
        model, load_processor(folder), family, device, dtype, fingerprint(folder), quantization, audit, config
    )


def compute_dtype(quantization: QuantizationSpec, device: torch.device) -> torch.dtype:
    """The type of activations: bf16 on CUDA devices that have it, fp32 elsewhere unless asked otherwise.

    On CPUs fp32 is the default because bf16 there is emulated or saves little, and fp32 runs repeat bit for bit.
    """
    if quantization.compute_dtype != "auto":
        if quantization.compute_dtype == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise SpecError("quantization.compute_dtype", "this GPU has no bf16", "use auto, fp16 or fp32")
        return _DTYPES[quantization.compute_dtype]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def name_of(dtype: torch.dtype) -> ComputeDtype:
    """What a specification calls the type."""
    names: dict[torch.dtype, ComputeDtype] = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    return names[dtype]


def guard_cpu_quantization(model: nn.Module) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    Any forward in eval mode without gradients would repack them for good, and training afterwards would run through
    `gemv_4bit`, which has no autograd: wrong gradients with an unchanged loss.
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def let_go_of_checkpoint(model: nn.Module) -> None:
    """Copies the unquantised weights of a model on the CPU, so that nothing holds the checkpoint that they lie in.

    safetensors maps each file as a whole: one weight that is used where it lies keeps all pages of it, those that the
    quantised weights were made from included, as long as the model lives.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and not isinstance(tensor, bnb.nn.Params4bit):
            tensor.data = tensor.data.clone()


def audit_model(
    model: nn.Module, family: ModelFamily, quantization: QuantizationSpec, dtype: torch.dtype
) -> ModelAudit:
    """Counts quantised layers by part and checks every type. Raises `ModelAuditError`."""
    counts: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        quantized = isinstance(module, bnb.nn.Linear4bit)
        group = family.group_of(name) or "head"
        _check_linear(name, module, quantized, _should_quantize(group, quantization))
        four, plain = counts.get(group, (0, 0))
        counts[group] = (four + quantized, plain + (not quantized))
    _check_types(model, dtype)
    if "language" not in counts:
        raise ModelAuditError(f"no linear layer found under {family.language}: this is not a {family.name} model")
    return ModelAudit(counts, _count_parameters(model))


def _should_quantize(group: TargetGroup | str, quantization: QuantizationSpec) -> bool:
    if quantization.bits == 16:
        return False
    return group == "language" or (group == "vision" and quantization.quantize_vision)


def _check_linear(name: str, module: nn.Linear, quantized: bool, expected: bool) -> None:
    if quantized != expected:
        is_, should = ("4-bit", "unquantised") if quantized else ("unquantised", "4-bit")
        raise ModelAuditError(f"{name} is {is_} and should be {should}")
    if quantized:
        state = getattr(module.weight, "quant_state", None)
        if state is None or state.quant_type != "nf4":
            raise ModelAuditError(f"{name} is 4-bit but not NF4: {getattr(state, 'quant_type', 'never quantised')}")
        declared = (module.out_features, module.in_features)
        if tuple(state.shape) != declared:
            # Quantised weights are stored flat: nothing else compares them with the configuration.
            raise ModelAuditError(f"{name} has weights of shape {tuple(state.shape)}, and config.json says {declared}")


def _check_types(model: nn.Module, dtype: torch.dtype) -> None:
    kept = [*(getattr(model, "_keep_in_fp32_modules", None) or ())]
    kept += [*(getattr(model, "_keep_in_fp32_modules_strict", None) or ())]
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float32 and any(module in name for module in kept):
            continue
        if parameter.is_floating_point() and parameter.dtype != dtype:
            raise ModelAuditError(f"{name} is {parameter.dtype} and should be {dtype}")


def _count_parameters(model: nn.Module) -> int:
    """Weights as the unquantised model has them: two 4-bit values share a stored byte."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def _family_of(folder: Path, model_type: str) -> ModelFamily:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            skeleton = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelRefusedError(
            f"transformers cannot build a video-text model of type {model_type!r} from config.json: "
            f"{first_line(error)}",
            "use a model that AutoModelForImageTextToText loads",
        ) from error
    return find_family(model_type, skeleton)


def _load_weights(
    folder: Path, quantization: QuantizationSpec, family: ModelFamily, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=family.skip_modules(quantization.quantize_vision),
    )
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            quantization_config=four_bit if quantization.bits == 4 else None,
            dtype=dtype,
            device_map={"": device},
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelRefusedError(
            f"the weights cannot be loaded: {first_line(error)}", "upload the model again"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])])
        raise ModelRefusedError(
            f"the weights lack or misshape {len(lacking)} tensors, {lacking[0]} among them",
            "check that all .safetensors files of the model are there",
        )
    assert isinstance(model, nn.Module)
    return model
