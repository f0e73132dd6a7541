"""What a training run is asked to do: typed, strict about unknown keys, and with the defaults of the contract.

Standard library only, so that services and the command line can read it without loading torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Self, get_args, get_type_hints

from trainer_svc.qlora import spec_options
from trainer_svc.qlora.spec_options import (
    EarlyStoppingSpec,
    LayerPatternSpec,
    LoraInitialization,
    Placement,
    SamplePredictionsSpec,
)

TargetGroup = Literal["language", "projector", "vision"]
TemporalGroup = Literal["language", "vision"]
ComputeDtype = Literal["auto", "bf16", "fp16", "fp32"]
Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "lion_8bit", "paged_adamw", "paged_adamw_8bit"]
Decoder = Literal["auto", "decord", "pyav"]
EncoderCacheMode = Literal["auto", "off"]
Sharding = Literal["auto", "on", "off"]

_GROUPS = ", ".join(get_args(TargetGroup))


class SpecError(ValueError):
    """A training specification that cannot be carried out; `field` is the dotted path of the culprit."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class GroupShare:
    """Bounds on what a part of the model gets of the adapter's parameters."""

    group: TargetGroup = "language"
    min_share: float = 0.0
    """0 to 1."""
    max_share: float = 1.0
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class RankAllocationSpec:
    """Ranks that differ by layer: see `cross_modal_rank_allocator`. The adapter ends with the parameters that it would
    have at `lora.rank` everywhere."""

    warmup_steps: int = 0
    """Steps at the higher rank, after which ranks are allocated; 0: one rank for all layers, to the end."""
    warmup_rank: int = 0
    """Rank until then, and the most that a layer can get; 0: four times `lora.rank`."""
    min_rank: int = 0
    """Least rank of a layer; one with 0 loses its adapter."""
    calibration_batches: int = 8
    """Batches by which layers are scored."""
    shares: tuple[GroupShare, ...] = ()
    """Bounds by part of the model."""


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The low-rank adapter (Hu et al., arXiv 2106.09685) that is the only thing trained."""

    rank: int = 16
    """Rank r of each pair of matrices, 1 to 1024."""
    alpha: float = 32.0
    """Scale of the update: alpha / r, or alpha / sqrt(r) with `use_rslora`."""
    dropout: float = 0.05
    """Dropout on the adapter's input, 0 up to but not including 1."""
    target_groups: tuple[TargetGroup, ...] = ("language",)
    """Which parts of the model get adapters on their linear layers."""
    use_rslora: bool = False
    """Rank-stabilised scaling (arXiv 2312.03732)."""
    temporal_groups: tuple[TemporalGroup, ...] = ()
    """Of the parts that get adapters, those whose adapters mix along time: see `temporal_aware_lora`."""
    temporal_kernel_size: int = 3
    """How many frames one such adapter sees at once: odd, 3 to 9."""
    rank_allocation: RankAllocationSpec = field(default_factory=RankAllocationSpec)
    """Whether and how ranks differ by layer."""
    use_dora: bool = False
    """Learn each layer's magnitude apart from its direction (arXiv 2402.09353)."""
    initialization: LoraInitialization = "default"
    """What A and B begin with: see `adapter_start`."""
    layer_patterns: tuple[LayerPatternSpec, ...] = ()
    """Layers with a rank or alpha of their own."""

    @property
    def first_rank(self) -> int:
        """The rank that training begins with."""
        if not self.rank_allocation.warmup_steps:
            return self.rank
        return self.rank_allocation.warmup_rank or 4 * self.rank

    @property
    def scale(self) -> float:
        """What layers multiply their update by, at the rank that training begins with."""
        return self.alpha / (math.sqrt(self.first_rank) if self.use_rslora else self.first_rank)


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """How the frozen base model is held in memory (QLoRA, arXiv 2305.14314)."""

    bits: int = 4
    """4: NF4 by bitsandbytes. 16: no quantisation."""
    double_quantization: bool = True
    """Quantise the quantisation constants too: 4.13 instead of 4.50 bits a parameter."""
    quantize_vision: bool = False
    """Quantise the vision tower as well. Costs accuracy; for boards with 8 GB."""
    compute_dtype: ComputeDtype = "auto"
    """Type of activations and of unquantised weights; auto: bf16 on CUDA devices that have it, else fp32."""


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """Which frames of a clip the model sees. A clip's own settings in its row win over these."""

    max_frames: int = 8
    """At most this many frames of one clip."""
    min_frames: int = 2
    """At least this many, as far as the clip has them."""
    fps: float = 0.0
    """Frames a second of clip, within min_frames and max_frames; 0: max_frames spread evenly."""
    max_pixels: int = 0
    """Most pixels (height times width) of one frame; 0: what the model's own processor does."""
    placement: Placement = "even"
    """even: spread evenly. segment_jitter: one of each of as many equal segments, at random while training."""


@dataclass(frozen=True, slots=True)
class OptimizationSpec:
    """The optimizer and its schedule."""

    learning_rate: float = 2e-4
    batch_size: int = 4
    """Samples in one micro-step."""
    gradient_accumulation_steps: int = 1
    """Micro-steps in one step of the optimizer."""
    epochs: int = 3
    """Passes over the training samples; without effect when `max_steps` is set."""
    max_steps: int = 0
    """Steps of the optimizer; 0: as many as `epochs` makes."""
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises from 0."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up: to 0, or not at all when constant."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    optimizer: Optimizer = "adamw"
    seed: int = 0
    """Seeds the adapter, dropout and the order of the samples."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more time."""
    batch_by_length: bool = False
    """Samples of like length share a batch: less padding."""


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """How the machine is used. Never changes what is learned, so a resumed run may differ in it."""

    decoder: Decoder = "auto"
    """auto: decord where it is installed, PyAV elsewhere. Both give the same frames, scaled by the same code; decord is
    spared clips of which it would not."""
    decode_workers: int = 1
    decode_timeout_seconds: float = 30.0
    """A clip that takes longer has its decode process killed."""
    prefetch_batches: int = 2
    """Batches made ready ahead of the step."""
    frame_cache_mib: int = 256
    """Memory for decoded frames kept from one epoch to the next."""
    encoder_cache: EncoderCacheMode = "auto"
    """auto: keep the vision encoder's outputs on disk wherever nothing before them is trained."""
    encoder_cache_mib: int = 20 << 10
    """Disk for them, shared by all runs that use the same folder."""
    threads: int = 0
    """Threads of torch and OpenMP; 0: their own choice."""
    devices: int = 1
    """How many train together, each by a process of its own that learns from its share of every step's samples. Only
    the order of additions, and what dropout drops, depend on it."""
    sharding: Sharding = "auto"
    """Whether several devices share the frozen base out among them, each holding a part; auto: where it would leave a
    device too little room. Slower than a base that is whole everywhere."""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """One training run. Build with `from_dict` or directly, then call `validate`."""

    lora: LoraSpec = field(default_factory=LoraSpec)
    quantization: QuantizationSpec = field(default_factory=QuantizationSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    optimization: OptimizationSpec = field(default_factory=OptimizationSpec)
    runtime: RuntimeSpec = field(default_factory=RuntimeSpec)
    checkpoint_every_steps: int = 50
    """0: only when stopped."""
    keep_checkpoints: int = 3
    """So many of the newest are kept; older ones are deleted, but for those that the next two settings keep."""
    keep_best_checkpoint: bool = False
    """Also keep the one with the lowest loss on the held-out samples, of those whose step was evaluated."""
    keep_checkpoint_every_steps: int = 0
    """Also keep each whose step is a multiple of this; 0: none."""
    log_every_steps: int = 1
    """How often metrics are reported."""
    evaluate_every_steps: int = 0
    """How often the loss on the held-out samples is measured; 0: only at the end, if there are any."""
    early_stopping: EarlyStoppingSpec = field(default_factory=EarlyStoppingSpec)
    """Whether to end when that loss no longer falls."""
    restore_best: bool = False
    """The adapter with the lowest such loss is what is published, not the last one."""
    sample_predictions: SamplePredictionsSpec = field(default_factory=SamplePredictionsSpec)
    """Answers to some held-out samples with each evaluation."""
    eval_fraction: float = 0.0
    """Share of the samples held out when no row names the split `eval`; chosen by sample id."""
    max_tokens: int = 0
    """Longest sample, video tokens included; longer ones are an error. 0: the model's own limit."""

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The specification in `value`, as `to_dict` or a JSON file gives it. Raises `SpecError`."""
        built = _build(cls, value, "")
        assert isinstance(built, cls)
        return built

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, every default spelled out; `from_dict` gives an equal specification back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def with_overrides(self, assignments: Iterable[str]) -> Self:
        """This specification with `lora.rank=8`-like assignments applied; values are JSON or bare words."""
        value = self.to_dict()
        for assignment in assignments:
            _assign(value, assignment)
        return self.from_dict(value)

    def validate(self) -> Self:
        """Self, or `SpecError` for the first field out of range or in conflict with another."""
        for path, value, low, high in (*_ranges(self), *spec_options.ranges(self)):
            if not low <= value <= high:
                raise SpecError(path, f"{value} is out of range", f"give a value from {low:g} to {high:g}")
        groups = self.lora.target_groups
        if not groups or len(set(groups)) != len(groups):
            raise SpecError("lora.target_groups", "empty or repeated", f"name one or more of {_GROUPS}, once each")
        for problem in spec_options.problems(self):
            raise SpecError(*problem)
        self._check_temporal()
        self._check_allocation()
        if self.quantization.bits not in (4, 16):
            raise SpecError("quantization.bits", f"{self.quantization.bits} is not offered", "use 4 or 16")
        if self.quantization.quantize_vision and "vision" in self.lora.target_groups:
            raise SpecError(
                "quantization.quantize_vision",
                "a quantised vision tower is not offered as a LoRA target",
                "remove 'vision' from lora.target_groups or leave the tower unquantised",
            )
        if self.sampling.min_frames > self.sampling.max_frames:
            raise SpecError(
                "sampling.min_frames", "is more than sampling.max_frames", "lower it, too, or raise max_frames"
            )
        step = self.optimization.batch_size * self.optimization.gradient_accumulation_steps
        if self.runtime.devices > step:
            raise SpecError(
                "runtime.devices",
                f"{self.runtime.devices} cannot share the {step} samples of a step",
                "lower it, or raise optimization.batch_size or gradient_accumulation_steps",
            )
        return self

    def _check_temporal(self) -> None:
        groups = self.lora.temporal_groups
        if len(set(groups)) != len(groups) or not set(groups) <= set(self.lora.target_groups):
            raise SpecError(
                "lora.temporal_groups",
                "names a part twice, or one that gets no adapter",
                f"name parts of lora.target_groups ({', '.join(self.lora.target_groups)}), once each",
            )
        if not groups and self.lora.temporal_kernel_size != LoraSpec().temporal_kernel_size:
            raise SpecError(
                "lora.temporal_kernel_size", "has no lora.temporal_groups", "name the parts that mix, or leave it out"
            )
        if self.lora.temporal_kernel_size % 2 == 0:
            raise SpecError("lora.temporal_kernel_size", "is even", "give 3, 5, 7 or 9")

    def _check_allocation(self) -> None:
        lora, allocation = self.lora, self.lora.rank_allocation
        if not allocation.warmup_steps:
            if allocation != RankAllocationSpec():
                raise SpecError(
                    "lora.rank_allocation", "has no warmup_steps", "say after how many steps to allocate ranks"
                )
            return
        if lora.temporal_groups:
            raise SpecError(
                "lora.rank_allocation",
                "is not offered for adapters that mix along time: truncation would turn their channels into others",
                "leave out lora.temporal_groups or lora.rank_allocation",
            )
        if not lora.rank < lora.first_rank <= 1024:
            raise SpecError(
                "lora.rank_allocation.warmup_rank",
                f"{lora.first_rank} leaves nothing to allocate",
                f"give more than lora.rank, {lora.rank}, and at most 1024",
            )
        if allocation.min_rank > lora.rank:
            raise SpecError("lora.rank_allocation.min_rank", "is more than lora.rank", "lower it")
        self._check_shares()

    def _check_shares(self) -> None:
        shares = self.lora.rank_allocation.shares
        named = [share.group for share in shares]
        if len(set(named)) != len(named) or not set(named) <= set(self.lora.target_groups):
            raise SpecError(
                "lora.rank_allocation.shares", "name a part twice, or one that gets no adapter", "name each target once"
            )
        if any(not 0 <= share.min_share <= share.max_share <= 1 for share in shares):
            raise SpecError("lora.rank_allocation.shares", "are no shares", "give 0 <= min_share <= max_share <= 1")
        if sum(share.min_share for share in shares) > 1:
            raise SpecError(
                "lora.rank_allocation.shares", "ask for more than there is", "let min_share add up to 1 at most"
            )
        if len(named) == len(self.lora.target_groups) and sum(share.max_share for share in shares) < 1:
            raise SpecError(
                "lora.rank_allocation.shares",
                "leave a part of the budget to nobody",
                "let max_share of all parts add up to 1 or more, or lower lora.rank",
            )


def _ranges(spec: TrainingSpec) -> list[tuple[str, float, float, float]]:
    """(dotted path, value, lowest, highest) of every number."""
    lora, sampling, optimization, runtime = spec.lora, spec.sampling, spec.optimization, spec.runtime
    return [
        ("lora.rank", lora.rank, 1, 1024),
        ("lora.alpha", lora.alpha, 1e-3, 65536),
        ("lora.dropout", lora.dropout, 0, 0.95),
        ("lora.temporal_kernel_size", lora.temporal_kernel_size, 3, 9),
        ("lora.rank_allocation.warmup_steps", lora.rank_allocation.warmup_steps, 0, 10_000_000),
        ("lora.rank_allocation.warmup_rank", lora.rank_allocation.warmup_rank, 0, 1024),
        ("lora.rank_allocation.min_rank", lora.rank_allocation.min_rank, 0, 1024),
        ("lora.rank_allocation.calibration_batches", lora.rank_allocation.calibration_batches, 1, 1024),
        ("sampling.max_frames", sampling.max_frames, 1, 768),
        ("sampling.min_frames", sampling.min_frames, 1, 768),
        ("sampling.fps", sampling.fps, 0, 240),
        ("sampling.max_pixels", sampling.max_pixels, 0, 2**26),
        ("optimization.learning_rate", optimization.learning_rate, 0, 1),
        ("optimization.batch_size", optimization.batch_size, 1, 1024),
        ("optimization.gradient_accumulation_steps", optimization.gradient_accumulation_steps, 1, 4096),
        ("optimization.epochs", optimization.epochs, 1, 10_000),
        ("optimization.max_steps", optimization.max_steps, 0, 10_000_000),
        ("optimization.warmup_ratio", optimization.warmup_ratio, 0, 1),
        ("optimization.weight_decay", optimization.weight_decay, 0, 1),
        ("optimization.max_grad_norm", optimization.max_grad_norm, 0, 1e6),
        ("optimization.seed", optimization.seed, 0, 2**32 - 1),
        ("runtime.decode_workers", runtime.decode_workers, 1, 64),
        ("runtime.decode_timeout_seconds", runtime.decode_timeout_seconds, 0.1, 3600),
        ("runtime.prefetch_batches", runtime.prefetch_batches, 1, 64),
        ("runtime.frame_cache_mib", runtime.frame_cache_mib, 0, 2**20),
        ("runtime.encoder_cache_mib", runtime.encoder_cache_mib, 0, 2**30),
        ("runtime.threads", runtime.threads, 0, 1024),
        ("runtime.devices", runtime.devices, 1, 64),
        ("checkpoint_every_steps", spec.checkpoint_every_steps, 0, 10_000_000),
        ("keep_checkpoints", spec.keep_checkpoints, 1, 1000),
        ("keep_checkpoint_every_steps", spec.keep_checkpoint_every_steps, 0, 10_000_000),
        ("log_every_steps", spec.log_every_steps, 1, 1_000_000),
        ("evaluate_every_steps", spec.evaluate_every_steps, 0, 10_000_000),
        ("eval_fraction", spec.eval_fraction, 0, 0.9),
        ("max_tokens", spec.max_tokens, 0, 10_000_000),
    ]


def _build(cls: type[Any], value: object, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise SpecError(path or "spec", f"is {type(value).__name__}, not an object", "give an object of named fields")
    hints = get_type_hints(cls)
    known = {entry.name for entry in fields(cls)}
    for key in value:
        if key not in known:
            raise SpecError(_join(path, str(key)), "unknown field", f"use one of {', '.join(sorted(known))}")
    return cls(**{key: _coerce(hints[key], entry, _join(path, key)) for key, entry in value.items()})


def _coerce(hint: Any, value: object, path: str) -> Any:
    """`value` as the annotated type, refusing every silent conversion but int to float."""
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, path)
    if hint is bool or hint is int or hint is float:
        return _coerce_number(hint, value, path)
    if hint is str:
        if not isinstance(value, str):
            raise SpecError(path, f"is {type(value).__name__}, not a text", "give a text")
        return value
    if getattr(hint, "__origin__", None) is tuple:
        if not isinstance(value, (list, tuple)):
            raise SpecError(path, f"is {type(value).__name__}, not a list", "give a list")
        return tuple(_coerce(get_args(hint)[0], entry, path) for entry in value)
    choices = get_args(hint)
    if value not in choices:
        raise SpecError(path, f"{value!r} is not offered", f"use one of {', '.join(map(str, choices))}")
    return value


def _coerce_number(hint: type, value: object, path: str) -> bool | int | float:
    if isinstance(value, bool):
        if hint is bool:
            return value
    elif hint is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return int(value)
    elif hint is float and isinstance(value, (int, float)) and abs(value) < 1e300:
        return float(value)
    raise SpecError(path, f"{value!r} is not of type {hint.__name__}", f"give a value of type {hint.__name__}")


def _assign(value: dict[str, Any], assignment: str) -> None:
    path, separator, text = assignment.partition("=")
    if not separator:
        raise SpecError(path, "no value given", "write it as section.field=value, for example lora.rank=8")
    *sections, name = path.strip().split(".")
    for section in sections:
        inner = value.get(section)
        if not isinstance(inner, dict):
            raise SpecError(path, f"there is no section {section!r}", f"use one of {', '.join(sorted(value))}")
        value = inner
    try:
        value[name] = json.loads(text)
    except json.JSONDecodeError:
        value[name] = text.split(",") if isinstance(value.get(name), list) else text


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
