"""The inference process: one loaded base model with its adapters, started when asked for and stopped when idle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from trainer_svc import metrics
from trainer_svc.child.process import ChildProcess
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.errors import (
    ClipUndecodableError,
    InferenceInterruptedError,
    ModelUnfitError,
    QuestionRefusedError,
)
from trainer_svc.domain.inference import Asking
from trainer_svc.domain.limits import InferenceLimits
from trainer_svc.domain.materialisation import folder_key
from trainer_svc.qlora import messages
from trainer_svc.usecases.content_cache import ContentCache, Refresh

Piece = messages.TokenText | messages.SideDone | messages.GenerationDone

LaunchInference = Callable[[Path, Mapping[str, Any]], Awaitable[ChildProcess]]
"""Starts the inference child in a folder that holds `model/`, quantised as said."""


@dataclass(frozen=True, slots=True)
class AskedModel:
    """The base model that a question is for."""

    files: Sequence[RemoteFile]
    quantization: Mapping[str, Any]
    """Fields of the training library's `QuantizationSpec`."""

    @property
    def key(self) -> str:
        return f"{folder_key(self.files)}-{json.dumps(dict(self.quantization), sort_keys=True)}"

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(slots=True)
class LoadedModel:
    """A running inference child. Only whoever has the turn may use it."""

    base: AskedModel
    folder: Path
    child: ChildProcess
    inbox: asyncio.Queue[messages.Message | None]
    pump: asyncio.Task[None]
    adapters: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """Keys of those in its folder, the least recently used first."""


class InferenceHost:
    """Holds at most one inference child. Its methods are called by one at a time: see `take_turns`."""

    def __init__(self, launch: LaunchInference, cache: ContentCache, folder: Path, limits: InferenceLimits) -> None:
        self._launch = launch
        self._cache = cache
        self._folder = folder
        self._limits = limits
        self._loaded: LoadedModel | None = None
        self._used_at = time.monotonic()

    def has_loaded(self, base: AskedModel) -> bool:
        """True when a question to `base` needs no loading."""
        loaded = self._loaded
        return loaded is not None and loaded.base.key == base.key and loaded.child.is_running

    @property
    def loaded_base(self) -> AskedModel | None:
        """The model that is loaded."""
        return self._loaded.base if self._loaded is not None else None

    @property
    def idle_seconds(self) -> float:
        """Seconds since the loaded model was last used; 0 when none is loaded."""
        return time.monotonic() - self._used_at if self._loaded else 0.0

    async def load(self, base: AskedModel, refresh: Refresh) -> LoadedModel:
        """The child for `base`, started if need be; another model's child is stopped first.

        Raises:
            ModelUnfitError: the model cannot be loaded.
            InferenceInterruptedError: the child died or hung while loading.
            StorageUnavailableError: the model's files cannot be had.
        """
        if self._loaded is not None and not self.has_loaded(base):
            await self.stop()
        if self._loaded is None:
            self._loaded = await self._start(base, refresh)
        self._used_at = time.monotonic()
        return self._loaded

    async def take_adapter(self, loaded: LoadedModel, files: Sequence[RemoteFile], refresh: Refresh) -> str:
        """The folder of an adapter, where the child finds it. Only as many are kept as the child keeps in memory."""
        key = folder_key(files)
        folders = loaded.folder / "adapters"
        if key not in loaded.adapters:
            await self._cache.take_folder("adapters", files, folders / key, refresh)
            loaded.adapters[key] = None
        loaded.adapters.move_to_end(key)
        while len(loaded.adapters) > self._limits.adapters:
            oldest, _ = loaded.adapters.popitem(last=False)
            await asyncio.to_thread(shutil.rmtree, folders / oldest, ignore_errors=True)
        return str(folders / key)

    async def ask(self, loaded: LoadedModel, asking: Asking) -> AsyncGenerator[Piece, None]:
        """Yields the pieces of the answer, or of both with the end of each, and the end of all last.

        Closing the iterator early drops the question.

        Raises:
            QuestionRefusedError: this question cannot be answered.
            InferenceInterruptedError: the child died or hung.
        """
        request_id = secrets.token_hex(8)
        is_finished = False
        try:
            await loaded.child.send(_generate(request_id, asking))
            while not is_finished:
                message = await self._next(loaded, self._limits.token)
                if isinstance(message, messages.GenerationFailed) and message.request_id == request_id:
                    is_finished = True
                    if message.reason is messages.FailureReason.DEVICE_LOST:
                        await self._discard(loaded)
                    raise _refusal(message)
                if isinstance(message, Piece) and message.request_id == request_id:
                    is_finished = isinstance(message, messages.GenerationDone)
                    yield message
        finally:
            self._used_at = time.monotonic()
            if not is_finished:
                await self._drop(loaded, request_id)

    async def stop(self) -> None:
        """Ends the child, if there is one."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        loaded.pump.cancel()
        await asyncio.gather(loaded.pump, return_exceptions=True)
        loaded.inbox.put_nowait(None)  # whoever waits for an answer learns at once that none comes
        await loaded.child.kill()
        await asyncio.to_thread(shutil.rmtree, loaded.folder, ignore_errors=True)
        structlog.get_logger().info("inference.stopped", pid=loaded.child.pid)

    async def _start(self, base: AskedModel, refresh: Refresh) -> LoadedModel:
        folder = self._folder / secrets.token_hex(8)
        child: ChildProcess | None = None
        start = time.monotonic()
        try:
            await self._cache.take_folder("models", base.files, folder / "model", refresh)
            await self._cache.evict()
            child = await self._launch(folder, base.quantization)
            inbox: asyncio.Queue[messages.Message | None] = asyncio.Queue()
            pump = asyncio.create_task(_pump(child, inbox), name="inference-messages")
            loaded = LoadedModel(base, folder, child, inbox, pump)
            await self._wait_until_ready(loaded)
        except BaseException:
            # Cancelled or failed: nothing half-started may stay behind.
            if child is not None:
                pump.cancel()
                await child.kill()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise
        seconds = time.monotonic() - start
        metrics.MODEL_LOAD_SECONDS.observe(seconds)
        structlog.get_logger().info("inference.ready", pid=child.pid, seconds=round(seconds, 3))
        return loaded

    async def _wait_until_ready(self, loaded: LoadedModel) -> None:
        while True:
            message = await self._next(loaded, self._limits.loading)
            if isinstance(message, messages.InferenceReady):
                return
            if isinstance(message, messages.Failed):
                raise ModelUnfitError(f"{message.message}; {message.next_step}")

    async def _next(self, loaded: LoadedModel, seconds: float) -> messages.Message:
        try:
            async with asyncio.timeout(seconds):
                message = await loaded.inbox.get()
        except TimeoutError as error:
            metrics.CHILDREN_LOST.labels("inference", "hung").inc()
            structlog.get_logger().warning("inference.hung", pid=loaded.child.pid, seconds=seconds)
            await self._discard(loaded)
            raise InferenceInterruptedError(f"the model gave nothing for {seconds:.0f} s") from error
        if message is None:
            metrics.CHILDREN_LOST.labels("inference", "crashed").inc()
            structlog.get_logger().warning(
                "inference.crashed", pid=loaded.child.pid, last_lines=loaded.child.last_lines[-10:]
            )
            await self._discard(loaded)
            raise InferenceInterruptedError("the inference process ended")
        if isinstance(message, messages.Log) and message.level in ("warning", "error"):
            structlog.get_logger().warning("inference.log", level_said=message.level, text=message.text)
        return message

    async def _drop(self, loaded: LoadedModel, request_id: str) -> None:
        """Has the child forget a question; a child that does not let go of it is ended."""
        if not loaded.child.is_running or self._loaded is not loaded:
            return
        await loaded.child.send(messages.Cancel(request_id))
        try:
            async with asyncio.timeout(self._limits.cancel):
                while True:
                    message = await loaded.inbox.get()
                    if message is None or (
                        getattr(message, "request_id", None) == request_id
                        and isinstance(message, messages.GenerationDone | messages.GenerationFailed)
                    ):
                        return
        except TimeoutError:
            structlog.get_logger().warning("inference.not_cancelled", pid=loaded.child.pid)
            await self._discard(loaded)

    async def _discard(self, loaded: LoadedModel) -> None:
        if self._loaded is loaded:
            await self.stop()


async def _pump(child: ChildProcess, inbox: asyncio.Queue[messages.Message | None]) -> None:
    """Moves the child's messages into the inbox, and None after the last: an interrupted read would lose its place."""
    with contextlib.suppress(messages.MessageError):
        while (message := await child.receive()) is not None:
            inbox.put_nowait(message)
    inbox.put_nowait(None)


def _generate(request_id: str, asking: Asking) -> messages.Generate:
    return messages.Generate(
        request_id=request_id,
        prompt=asking.prompt,
        clip=asking.clip,
        adapter_dir=asking.adapter,
        sampling=dict(asking.sampling),
        max_new_tokens=asking.max_new_tokens,
        temperature=asking.temperature,
        # Whoever asks again at a temperature wants another answer.
        seed=secrets.randbits(63),
        beside_base=asking.beside_base,
    )


def _refusal(failed: messages.GenerationFailed) -> Exception:
    text = f"{failed.message}; {failed.next_step}" if failed.next_step else failed.message
    if failed.reason is messages.FailureReason.BAD_CLIP:
        return ClipUndecodableError(text)
    if failed.reason is messages.FailureReason.BAD_REQUEST:
        return QuestionRefusedError(text)
    if failed.reason in (messages.FailureReason.MODEL_UNSUPPORTED, messages.FailureReason.OUT_OF_MEMORY):
        return ModelUnfitError(text)
    return InferenceInterruptedError("the model failed on this question")
