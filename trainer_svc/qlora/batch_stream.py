"""Batches made ready ahead of the step: clips decode in the pool and are encoded in one thread beside training."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import torch

from trainer_svc.qlora.data_processor import Batch, DataProcessor, EncodedSample
from trainer_svc.qlora.dataset_rows import Clip, Sample
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.encoder_cache import EncoderCache
from trainer_svc.qlora.epoch_samples import NumberedSamples
from trainer_svc.qlora.errors import BadClipError, BadDataError
from trainer_svc.qlora.frame_decoder import DecodedFrames
from trainer_svc.qlora.frame_sampling import FrameRequest
from trainer_svc.qlora.spec import SamplingSpec

_LOOK_UP_SECONDS = 0.5


class FrameSource:
    """Decoded frames of clips, kept in memory up to a bound so that later epochs need not decode again.

    Not thread-safe: one for each `BatchStream`. The pool may be shared.
    """

    def __init__(self, pool: DecodePool, sampling: SamplingSpec, cache_bytes: int) -> None:
        self._pool = pool
        self._sampling = sampling
        self._cache_bytes = cache_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[tuple[str, FrameRequest], DecodedFrames] = OrderedDict()
        self._pending: dict[tuple[str, FrameRequest], Future[DecodedFrames]] = {}

    def prefetch(self, clip: Clip) -> None:
        """Starts decoding, unless it is cached or under way."""
        key = self._key(clip)
        if key not in self._cache and key not in self._pending:
            self._pending[key] = self._pool.decode(clip.path, key[1])

    def take(self, clip: Clip, look_up: Callable[[], None]) -> DecodedFrames:
        """The frames; waits for them. Raises `BadClipError`, or what `look_up` raises, which is called meanwhile."""
        key = self._key(clip)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        self.prefetch(clip)
        future = self._pending.pop(key)
        while not wait((future,), timeout=0.2).done:
            look_up()
        decoded = future.result()
        self._keep(key, decoded)
        return decoded

    def _key(self, clip: Clip) -> tuple[str, FrameRequest]:
        return str(clip.path), clip.frame_request(self._sampling)

    def _keep(self, key: tuple[str, FrameRequest], decoded: DecodedFrames) -> None:
        self._cache[key] = decoded
        self._held_bytes += decoded.frames.nbytes
        while self._held_bytes > self._cache_bytes and self._cache:
            _, oldest = self._cache.popitem(last=False)
            self._held_bytes -= oldest.frames.nbytes


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class BatchStream:
    """Iterate over it once, inside its context: the batches of each of `groups`, in order. One each, but for families
    that stack clips, and clips of different shapes.

    Raises `BadDataError` naming the sample, whatever was wrong with it or its clip; and what else ended its thread.
    """

    def __init__(
        self,
        samples: NumberedSamples,
        groups: Iterable[list[int]],
        source: FrameSource,
        processor: DataProcessor,
        *,
        ahead: int,
        cache: EncoderCache | None = None,
        look_up: Callable[[], None] | None = None,
    ) -> None:
        """`groups`: lists of indices into `samples`; `ahead`: groups kept ready; `cache`: where the encoder is run
        apart, and then `EncoderCache.complete` makes batches whole; `look_up`: called now and then while a batch is
        waited for, which ends by what it raises."""
        self.wait_seconds = 0.0
        """Time that iteration has spent waiting for a batch."""
        self._samples = samples
        self._groups = groups
        self._source = source
        self._processor = processor
        self._ahead = ahead
        self._cache = cache
        self._look_up = look_up
        self._ready: queue.Queue[list[Batch] | _Failure | None] = queue.Queue(maxsize=ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="batches", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Batch]:
        began = time.perf_counter()
        ready = self._wait()
        self.wait_seconds += time.perf_counter() - began
        if ready is None:
            raise StopIteration
        if isinstance(ready, _Failure):
            raise ready.error
        return ready

    def _wait(self) -> list[Batch] | _Failure | None:
        while True:
            # Asked first: what a thread leaves behind before it ends is in the queue by then.
            is_working = self._thread.is_alive()
            try:
                return self._ready.get(timeout=_LOOK_UP_SECONDS)
            except queue.Empty:
                if not is_working:
                    raise RuntimeError("the thread that makes batches ended without a word") from None
                if self._look_up is not None:
                    self._look_up()

    def _produce(self) -> None:
        # A team of OpenMP threads of its own would fight with the one that trains for the same cores.
        torch.set_num_threads(1)
        try:
            upcoming = iter(self._groups)
            window = list(islice(upcoming, self._ahead))
            for group in window:
                self._prefetch(group)
            while window and not self._closing.is_set():
                group = window.pop(0)
                for following in islice(upcoming, 1):
                    self._prefetch(following)
                    window.append(following)
                self._put(self._make(group))
            self._put(None)
        except CancelledError:
            return
        # The edge of the thread, whose errors nobody else would see: they are handed over to the one that trains.
        except Exception as error:
            self._put(_Failure(error))

    def _prefetch(self, group: list[int]) -> None:
        for index in group:
            sample = self._samples[index]
            if self._cache is None or not self._cache.holds(sample):
                for clip in sample.clips:
                    self._source.prefetch(clip)

    def _make(self, group: list[int]) -> list[Batch]:
        samples = [self._samples[index] for index in group]
        if self._cache is None:
            return self._processor.collate_alike([self._encode(sample) for sample in samples])
        encoded = [self._cache.find(sample) or self._cache.keep(sample, self._encode(sample)) for sample in samples]
        return self._processor.collate_alike(encoded)

    def _encode(self, sample: Sample) -> EncodedSample:
        try:
            frames = [self._source.take(clip, self._give_up_when_closing) for clip in sample.clips]
        except BadClipError as error:
            raise BadDataError(f"sample {sample.sample_id}: {error}", "replace the clip or remove its rows") from error
        return self._processor.encode(sample, frames)

    def _give_up_when_closing(self) -> None:
        if self._closing.is_set():
            raise CancelledError

    def _put(self, ready: list[Batch] | _Failure | None) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(ready, timeout=0.2)
            except queue.Full:
                continue
            return
