"""A frozen encoder's outputs, kept on disk from one epoch, attempt and job to the next.

Two kinds of entries: a sample's tokens and labels, with which it needs no decoding and no processor; and the encoder's
outputs for the clips of a sample, which samples that ask about the same clips share. Each is under a key made of all
that it depends on, so that a wrong one cannot be found: the clips' bytes, what is taken of them, the processor's files,
the weights, the kernels that compute, and the code of this package that makes one of the other.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from trainer_svc.qlora.data_processor import Batch, EncodedSample, Visual
from trainer_svc.qlora.dataset_rows import Clip, Sample
from trainer_svc.qlora.frozen_encoder import Features, FrozenEncoder, why_not_frozen
from trainer_svc.qlora.messages import Log
from trainer_svc.qlora.model_folder import file_sha256, processor_sha256
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.qlora.tensor_store import TensorStore

_CODE = (
    *("chat_labels", "clip_packets", "data_processor", "decode_pool", "decode_worker", "encoder_cache", "families"),
    *("frame_decoder", "frame_sampling", "frozen_encoder", "model_loader", "processor_loader", "tensor_store"),
)
"""Modules of this package whose change may make other tensors of the same clip: a test goes through all imports."""
_LABELS = "labels"
_LIBRARIES = (
    *("torch", "transformers", "bitsandbytes", "torchvision", "tokenizers", "jinja2", "numpy", "av", "decord"),
    "pillow",
)
"""What reads, resizes, renders and computes; another version may do it otherwise."""


class EncoderCache:
    """What a run's batches go through where its encoder is frozen. With no store it keeps nothing, and computes alike.

    `holds`, `find` and `keep` belong to the threads that make batches ready, `complete` to the one that trains.
    """

    def __init__(
        self, encoder: FrozenEncoder, store: TensorStore | None, context: Mapping[str, Any], spec: TrainingSpec
    ) -> None:
        """`context`: all that every entry depends on."""
        self._encoder = encoder
        self._store = store
        self._context = _sha256(dict(context))
        self._sampling = spec.sampling
        self._wanted = self._found = 0
        self._clip_digests: dict[Path, str] = {}
        self._guard = threading.Lock()

    def holds(self, sample: Sample) -> bool:
        """Whether the sample will need no decoding, as far as can be told without reading."""
        if self._store is None:
            return False
        clips = self._clips_key(sample)
        return clips is not None and self._store.has(clips) and self._store.has(self._sample_key(sample, clips))

    def find(self, sample: Sample) -> EncodedSample | None:
        """The sample with its encoder's outputs; None when something of it is not kept."""
        clips = self._clips_key(sample) if self._store else None
        if self._store is None or clips is None:
            return None
        found = self._store.get(self._sample_key(sample, clips))
        features = self._store.get(clips) if found else None
        if found is None or features is None:
            return None
        inputs = {name: value for name, value in found.tensors.items() if name != _LABELS}
        visual = Visual(clips, None, features.tensors)
        return EncodedSample(sample.sample_id, inputs | found.facts, found.tensors[_LABELS], visual=visual)

    def keep(self, sample: Sample, encoded: EncodedSample) -> EncodedSample:
        """The sample without its pixels, which are laid aside for the encoder; its tokens are kept."""
        if not sample.clips:
            return encoded
        pixels = dict(encoded.inputs)
        inputs = {name: value for name, value in pixels.items() if name not in self._encoder.pixel_names}
        clips = self._clips_key(sample) or ""
        if self._store is not None and clips:
            key = self._sample_key(sample, clips)
            if not self._store.has(key):
                tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
                facts = {name: value for name, value in inputs.items() if name not in tensors}
                self._store.put(key, tensors | {_LABELS: encoded.labels}, facts)
        return replace(encoded, inputs=inputs, visual=Visual(clips, pixels, None))

    def complete(self, batch: Batch) -> Batch:
        """The batch with its encoder's outputs in place of pixels: what is not there yet is computed, and kept."""
        if not batch.visuals:
            return batch
        features = [self._features(visual) for visual in batch.visuals]
        return replace(batch, inputs=batch.inputs | self._encoder.model_inputs(features), visuals=())

    def take_metrics(self) -> dict[str, float]:
        """`encoder_cache_hit_fraction` since the last call: of the outputs wanted, those that were there."""
        wanted, found, self._wanted, self._found = self._wanted, self._found, 0, 0
        return {"encoder_cache_hit_fraction": found / wanted} if wanted and self._store else {}

    def _features(self, visual: Visual) -> Features:
        self._wanted += 1
        found = visual.features
        if found is None and self._store is not None and visual.key and self._store.has(visual.key):
            # Another sample about the same clips has come since this one was made ready.
            entry = self._store.get(visual.key)
            found = entry.tensors if entry else None
        if found is not None:
            self._found += 1
            return found
        assert visual.pixels is not None
        features = self._encoder.encode(visual.pixels)
        if self._store is not None and visual.key:
            self._store.put(visual.key, features, {})
        return features

    def _clips_key(self, sample: Sample) -> str | None:
        """None for a sample without clips, with one whose frames no other epoch has, or with one that cannot be read:
        decoding it will say why."""
        clips = sample.clips
        if any(clip.draw for clip in clips):
            # Of frames drawn anew in each epoch nothing will be asked for again.
            return None
        try:
            parts = [[self._digest_of(clip), asdict(clip.frame_request(self._sampling))] for clip in clips]
        except OSError:
            return None
        return _sha256(["clips", self._context, parts]) if clips else None

    def _sample_key(self, sample: Sample, clips: str) -> str:
        turns = [[turn.role, [part if isinstance(part, str) else None for part in turn.parts]] for turn in sample.turns]
        return _sha256(["sample", clips, turns])

    def _digest_of(self, clip: Clip) -> str:
        with self._guard:
            known = self._clip_digests.get(clip.path)
        if known is None:
            known = file_sha256(clip.path)
            with self._guard:
                self._clip_digests[clip.path] = known
        return known


def open_encoder_cache(run: RunContext, spec: TrainingSpec, base: BaseModel, decoder: str) -> EncoderCache | None:
    """The cache for a run whose adapters are in place; None where the encoder must be run as part of the model.
    `decoder`: the one that clips are decoded with.

    Tells in the job's log which it is, and why.
    """
    reason = why_not_frozen(base)
    if reason is not None:
        if spec.runtime.encoder_cache == "auto":
            run.report(Log("info", f"the vision encoder's outputs are not cached: {reason}"))
        return None
    encoder = FrozenEncoder(base)
    if spec.runtime.encoder_cache == "off":
        return EncoderCache(encoder, None, {}, spec)
    if spec.sampling.placement == "segment_jitter":
        words = "each epoch takes other frames (sampling.placement=segment_jitter)"
        run.report(Log("info", f"the vision encoder's outputs are not cached: {words}"))
        return EncoderCache(encoder, None, {}, spec)
    limit = spec.runtime.encoder_cache_mib << 20
    store = TensorStore(run.folders.encoder_cache, limit, lambda words: run.report(Log("warning", words)))
    context = {
        "encoder": encoder.digest(),
        "processor": processor_sha256(run.folders.model),
        "code": _code_digest(),
        "max_tokens": spec.max_tokens or base.max_positions,
        "dtype": str(base.compute_dtype),
        "decoder": decoder,
        # Whether an entry is there tells something of what another owner has trained on.
        "owner": run.folders.owner_digest,
        "kernels": _kernels(base.device),
    }
    run.report(Log("info", f"the vision encoder's outputs are cached, in at most {limit >> 20:,} MiB"))
    return EncoderCache(encoder, store, context, spec)


def _kernels(device: torch.device) -> dict[str, Any]:
    """What decides how numbers are rounded, besides the weights: sums are taken in another order by other kernels."""
    facts: dict[str, Any] = {name: _version(name) for name in _LIBRARIES}
    if device.type == "cuda":
        return facts | {"device": torch.cuda.get_device_name(device)}
    return facts | {"device": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code_digest() -> str:
    return _sha256([file_sha256(Path(__file__).with_name(f"{name}.py")) for name in _CODE])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
