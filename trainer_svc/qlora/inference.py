"""Answers from one 4-bit base model and any number of its adapters, swapped in place, token by token."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModelForCausalLM
from safetensors import SafetensorError, safe_open
from transformers.generation.streamers import BaseStreamer

from trainer_svc.qlora.adapter_files import check_adapter, quantization_note
from trainer_svc.qlora.data_processor import DataProcessor, on_device
from trainer_svc.qlora.dataset_rows import Clip, Turn
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.errors import BadDataError
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.frame_index import FrameIndex
from trainer_svc.qlora.generation import generate_tokens, text_of
from trainer_svc.qlora.launch import DEFAULT_ADAPTER_BYTES
from trainer_svc.qlora.messages import Generate, GenerationDone
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.side_by_side import answer_both
from trainer_svc.qlora.spec import SamplingSpec, TrainingSpec
from trainer_svc.qlora.temporal_aware_lora import enable

_MAX_NEW_TOKENS = 8192
_log = logging.getLogger(__name__)
_WEIGHT_BYTES = 4


class InferenceEngine:
    """One request at a time, from one thread."""

    def __init__(
        self,
        base: BaseModel,
        pool: DecodePool,
        *,
        max_adapters: int = 4,
        max_adapter_bytes: int = DEFAULT_ADAPTER_BYTES,
    ) -> None:
        self._base = base
        self._pool = pool
        self._processor = DataProcessor(base.processor, max_tokens=base.max_positions)
        self._adapters = AdapterSet(base, max_adapters, max_bytes=max_adapter_bytes)
        base.model.eval()

    def generate(self, request: Generate, emit: Callable[[str], None], cancelled: Callable[[], bool]) -> GenerationDone:
        """Hands the answer to `emit` piece by piece; `cancelled` is asked before every token.

        Raises `SpecError`, `BadDataError` or `BadClipError` for a request that cannot be answered.
        """
        began = time.perf_counter()
        inputs = self._inputs(request, cancelled)
        if inputs is None:
            return GenerationDone(request.request_id, 0, 0, "cancelled", time.perf_counter() - began)
        with self._adapters.active(request.adapter_dir) as model:
            generated = self._stream(model, inputs, request, emit, cancelled)
        return self._done(request, inputs, generated, cancelled(), began)

    def generate_beside_base(
        self,
        request: Generate,
        emit: Callable[[bool, str], None],
        ended: Callable[[bool, GenerationDone], None],
        cancelled: Callable[[], bool],
    ) -> GenerationDone:
        """Has the base model answer beside the adapter, one token of each in turn; each says what it would say alone.

        `emit` gets the pieces and `ended` the end of each answer, with whether they are the base model's. The result
        counts the tokens of both. Raises what `generate` raises.
        """
        began = time.perf_counter()
        if request.adapter_dir is None:
            raise BadDataError("adapter_dir: none", "name the adapter that the base model is to answer beside")
        inputs = self._inputs(request, cancelled)
        if inputs is None:
            return GenerationDone(request.request_id, 0, 0, "cancelled", time.perf_counter() - began)

        def answer(of_base: bool, pass_on: Callable[[], None]) -> GenerationDone:
            def is_cancelled() -> bool:
                pass_on()
                return cancelled()

            # The layers are in the base model itself; peft's own `generate` cannot run twice at a time.
            told = partial(emit, of_base)
            generated = self._stream(self._base.model, inputs, request, told, is_cancelled)
            done = self._done(request, inputs, generated, cancelled(), began)
            ended(of_base, done)
            return done

        with self._adapters.active(request.adapter_dir) as model:
            base, tuned = answer_both(model, answer)
        return replace(
            tuned,
            generated_tokens=base.generated_tokens + tuned.generated_tokens,
            seconds=time.perf_counter() - began,
        )

    def _inputs(self, request: Generate, cancelled: Callable[[], bool]) -> dict[str, Any] | None:
        """What the model is given; None when cancelled meanwhile."""
        _check_limits(request)
        sampling = TrainingSpec.from_dict({"sampling": request.sampling}).validate().sampling
        turns, clip = _turns(request)
        frames = self._frames(clip, sampling, cancelled) if clip else []
        if frames is None:
            return None
        return on_device(self._processor.encode_prompt(turns, frames), self._base.device)

    def _done(
        self, request: Generate, inputs: dict[str, Any], generated: list[int], cancelled: bool, began: float
    ) -> GenerationDone:
        return GenerationDone(
            request.request_id,
            prompt_tokens=int(inputs["input_ids"].shape[1]),
            generated_tokens=len(generated),
            finish=self._finish(generated, cancelled),
            seconds=time.perf_counter() - began,
        )

    def _stream(
        self,
        model: Any,
        inputs: dict[str, Any],
        request: Generate,
        emit: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> list[int]:
        with torch.inference_mode():
            return generate_tokens(
                model,
                self._base,
                inputs,
                pad_token_id=self._processor.pad_token_id,
                max_new_tokens=request.max_new_tokens,
                is_cancelled=cancelled,
                temperature=request.temperature,
                seed=request.seed,
                streamer=_TextPieces(self._base.processor.tokenizer, emit),
            )

    def _frames(self, clip: Clip, sampling: SamplingSpec, cancelled: Callable[[], bool]) -> list[DecodedFrames] | None:
        """None when cancelled meanwhile."""
        future = self._pool.decode(clip.path, clip.frame_request(sampling))
        while not wait((future,), timeout=0.1).done:
            if cancelled():
                return None
        return [future.result()]

    def _finish(self, generated: list[int], cancelled: bool) -> str:
        if generated and generated[-1] in self._base.end_tokens:
            return "stop"
        return "cancelled" if cancelled else "length"


@dataclass(frozen=True, slots=True)
class HeldAdapter:
    """An adapter in memory."""

    name: str
    """peft's name for it."""
    size_bytes: int


class AdapterSet:
    """The adapters held beside a base model: loaded when asked for, the least recently used dropped.

    At most `limit` of them, and at most `max_bytes` of their weights in memory.
    """

    def __init__(self, base: BaseModel, limit: int, *, max_bytes: int = DEFAULT_ADAPTER_BYTES) -> None:
        self._base = base
        self._limit = limit
        self._max_bytes = max_bytes
        self._frames = FrameIndex(base.family, base.model.config)
        self._frames.watch(base.model)
        self._model: Any = None
        self._held: OrderedDict[tuple[str, int, int], HeldAdapter] = OrderedDict()
        self._loaded = 0

    @contextmanager
    def active(self, adapter_dir: str | None) -> Iterator[Any]:
        """The model with that adapter, or as it is without one. Raises `BadDataError` for a folder that is no
        adapter of this base model."""
        if adapter_dir is None:
            with self._model.disable_adapter() if self._model is not None else nullcontext():
                yield self._model if self._model is not None else self._base.model
            return
        folder = Path(adapter_dir)
        key = _identity(folder)
        if key not in self._held:
            size_bytes = memory_of(folder)
            self._make_room(size_bytes)
            self._held[key] = HeldAdapter(self._load(folder), size_bytes)
        self._held.move_to_end(key)
        self._model.set_adapter(self._held[key].name)
        yield self._model

    @property
    def held(self) -> list[HeldAdapter]:
        """Those in memory now, the least recently used first."""
        return list(self._held.values())

    def _load(self, folder: Path) -> str:
        """Loads the adapter beside the others and returns its name; leaves nothing behind when it does not fit."""
        plugin = check_adapter(folder, self._base.fingerprint)
        if note := quantization_note(folder, self._base):
            _log.warning(note)
        self._loaded += 1
        name = f"adapter{self._loaded}"
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        enable(config, self._frames, plugin.temporal_groups, plugin.temporal_kernel_size)
        try:
            if self._model is None:
                self._model = PeftModelForCausalLM(self._base.model, config, adapter_name=name)
            else:
                self._model.add_adapter(name, config)
            report = self._model.load_adapter(str(folder), name, is_trainable=False)
        except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
            self._remove(name)
            raise BadDataError(
                f"the adapter does not fit this base model: {error}", "use its own base model"
            ) from error
        strangers = [*report.unexpected_keys, *report.missing_keys]
        if strangers:
            self._remove(name)
            raise BadDataError(
                f"the adapter's tensors are not those of its layers, {strangers[0]} among them",
                "it is incomplete, or it needs a part of the model or a plugin that is not here",
            )
        self._model.eval()
        return name

    def _make_room(self, size_bytes: int) -> None:
        """Drops what was not used for longest, before the next one is read: both at once might be too much."""
        if size_bytes > self._max_bytes:
            raise BadDataError(
                f"the adapter takes {size_bytes:,} bytes of memory and this trainer has {self._max_bytes:,} for them",
                "ask the operator for a larger TRAINER_INFERENCE_ADAPTER_BYTES, or train with a lower rank",
            )
        while self._held and (
            len(self._held) >= self._limit
            or sum(adapter.size_bytes for adapter in self._held.values()) + size_bytes > self._max_bytes
        ):
            _, oldest = self._held.popitem(last=False)
            self._remove(oldest.name)

    def _remove(self, name: str) -> None:
        if self._model is None or name not in self._model.peft_config:
            return
        if len(self._model.peft_config) > 1:
            self._model.delete_adapter(name)
        else:
            self._model.unload()
            self._model = None


def _identity(folder: Path) -> tuple[str, int, int]:
    """An adapter by its place and version: a folder may be written anew."""
    weights = folder / "adapter_model.safetensors"
    try:
        facts = weights.stat()
    except OSError as error:
        raise BadDataError(f"{folder.name} holds no adapter", "give a folder with adapter_model.safetensors") from error
    return str(folder.resolve()), facts.st_mtime_ns, facts.st_size


def memory_of(folder: Path) -> int:
    """Bytes that the adapter in `folder` takes in memory, where its weights are kept in 32 bits."""
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            return sum(_WEIGHT_BYTES * prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise BadDataError(f"{folder.name} holds no readable weights: {error}", "download the adapter anew") from error


class _TextPieces(BaseStreamer):  # type: ignore[misc]
    """Tokens in, text out, as soon as it is certain: a character may take several tokens, and a word's spacing may
    depend on the token before it."""

    def __init__(self, tokenizer: Any, emit: Callable[[str], None]) -> None:
        self._tokens: list[int] = []
        self._tokenizer = tokenizer
        self._emit = emit
        self._prompt_seen = False
        self._context = 0
        self._told = 0

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._tokens += value.flatten().tolist()
        self._tell(whole=False)

    def end(self) -> None:
        self._tell(whole=True)

    def _tell(self, *, whole: bool) -> None:
        before = text_of(self._tokenizer, self._tokens[self._context : self._told])
        after = text_of(self._tokenizer, self._tokens[self._context :])
        if len(after) > len(before) and (whole or not after.endswith("\N{REPLACEMENT CHARACTER}")):
            self._emit(after[len(before) :])
            self._context, self._told = self._told, len(self._tokens)


def _check_limits(request: Generate) -> None:
    if not 1 <= request.max_new_tokens <= _MAX_NEW_TOKENS:
        raise BadDataError(f"max_new_tokens: {request.max_new_tokens}", f"give 1 to {_MAX_NEW_TOKENS}")
    if not 0.0 <= request.temperature <= 10.0:
        raise BadDataError(f"temperature: {request.temperature}", "give 0 (greedy) to 10")
    if not request.prompt.strip():
        raise BadDataError("prompt: empty", "ask something")


def _turns(request: Generate) -> tuple[tuple[Turn, ...], Clip | None]:
    clip = Clip(Path(request.clip)) if request.clip else None
    parts = (clip, request.prompt) if clip else (request.prompt,)
    return (Turn("user", parts),), clip
