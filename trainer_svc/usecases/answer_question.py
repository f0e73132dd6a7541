"""Answer a user's question about a clip, with what that user may read."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Literal

import psutil
import structlog

from trainer_svc.clients.catalog import CatalogClient
from trainer_svc.clients.jobs import JobsClient, TunedJob
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.errors import DeviceUnfitError, InferenceBusyError, StorageUnavailableError
from trainer_svc.domain.inference import AnswerEnd, AnswerPiece, AnswerText, Asking, DatasetClip, Question, Responder
from trainer_svc.domain.limits import InferenceLimits
from trainer_svc.qlora.messages import TokenText
from trainer_svc.usecases.content_cache import ContentCache, Refresh
from trainer_svc.usecases.inference_host import BaseModel, InferenceHost, LoadedModel
from trainer_svc.usecases.live_attempt import LiveAttempts
from trainer_svc.usecases.probe_device import DeviceProbe
from trainer_svc.usecases.take_turns import Turns

DuringTraining = Literal["auto", "always", "never"]

_TRAINING_RETRY = timedelta(seconds=30)
_MEMORY_FACTOR = 2
_MEMORY_FLOOR_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class InferenceTools:
    jobs: JobsClient
    catalog: CatalogClient
    cache: ContentCache
    host: InferenceHost
    turns: Turns
    probe: DeviceProbe
    live: LiveAttempts
    clips_folder: Path
    limits: InferenceLimits
    during_training: DuringTraining = "auto"
    """Whether a model may be loaded for inference while a job trains; `auto`: where memory is plentiful and shared."""


@dataclass(frozen=True, slots=True)
class _Resolved:
    job: TunedJob
    base: BaseModel
    adapter: tuple[RemoteFile, ...]


async def answer_question(question: Question, tools: InferenceTools) -> AsyncGenerator[AnswerPiece, None]:
    """Yields the answer of each responder in turn, piece by piece.

    Raises:
        Failure: what scheduler or catalog say to this user: not found, not ready …
        DeviceUnfitError, ModelUnfitError, InferenceBusyError, InferenceInterruptedError, QuestionRefusedError,
        StorageUnavailableError, SchedulerUnavailableError.
    """
    resolved = await _resolve(question, tools)
    _check_device(await tools.probe.result(), resolved.base)
    async with _clip(question, tools) as clip, tools.turns.turn(question.client):
        _check_room(resolved.base, tools)
        loaded = await tools.host.load(resolved.base, _model_refresh(question, resolved, tools))
        for responder in question.responders:
            asking = await _asking(question, resolved, responder, clip, loaded, tools)
            async with contextlib.aclosing(_answer(responder, asking, question, loaded, tools)) as pieces:
                async for piece in pieces:
                    yield piece


async def release_model(tools: InferenceTools) -> None:
    """Ends the inference process unless somebody asks it just now: training needs the memory."""
    if not tools.turns.is_taken:
        async with tools.turns.turn(""):
            await tools.host.stop()


async def stop_when_idle(tools: InferenceTools) -> None:
    """Ends an inference process that nobody has asked for a while; watches for ever."""
    while True:
        await asyncio.sleep(max(0.05, tools.limits.idle / 10))
        if tools.host.idle_seconds > tools.limits.idle:
            await release_model(tools)
            await tools.cache.evict()


async def _resolve(question: Question, tools: InferenceTools) -> _Resolved:
    job = await tools.jobs.get_job(question.token, question.job_id)
    adapter: tuple[RemoteFile, ...] = ()
    if Responder.TUNED in question.responders:
        adapter = await tools.jobs.get_adapter_files(question.token, question.job_id)
    files = await tools.catalog.get_model_files(question.token, job.model_id)
    return _Resolved(job, BaseModel(files, job.quantization), adapter)


def _check_device(device: Device, base: BaseModel) -> None:
    if base.quantization["bits"] == 4 and not device.can_train_4bit:
        raise DeviceUnfitError(f"this trainer cannot compute in 4 bits: {device.four_bit_problem}")
    if not device.decoder:
        raise DeviceUnfitError("this trainer has no working video decoder")


def _check_room(base: BaseModel, tools: InferenceTools) -> None:
    """Refuses to load a model beside a training job where the job might suffer."""
    if tools.live.is_empty or tools.host.has_loaded(base) or tools.during_training == "always":
        return
    device = tools.probe.device
    is_plentiful = (
        device is not None
        and device.device_class is DeviceClass.CPU
        and psutil.virtual_memory().available > _MEMORY_FLOOR_BYTES + _MEMORY_FACTOR * base.size_bytes
    )
    if tools.during_training == "never" or not is_plentiful:
        raise InferenceBusyError("a job is training on this device", _TRAINING_RETRY)


@contextlib.asynccontextmanager
async def _clip(question: Question, tools: InferenceTools) -> AsyncIterator[Path]:
    """The clip as a file, for as long as the block takes."""
    folder = tools.clips_folder / secrets.token_hex(8)
    try:
        if isinstance(question.clip, bytes):
            path = folder / "clip.mp4"
            await asyncio.to_thread(_write, path, question.clip)
        else:
            path = await _fetch_clip(question, question.clip, folder, tools)
        yield path
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _fetch_clip(question: Question, clip: DatasetClip, folder: Path, tools: InferenceTools) -> Path:
    async def refresh(path: str) -> RemoteFile:
        return (await tools.catalog.get_clips(question.token, clip.dataset_id, [path]))[0]

    path = folder / (PurePosixPath(clip.path).name or "clip")
    await tools.cache.take_file(await refresh(clip.path), path, refresh)
    return path


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    except OSError as error:
        raise StorageUnavailableError(f"{error.strerror or error} on the trainer's disk") from error


async def _asking(
    question: Question,
    resolved: _Resolved,
    responder: Responder,
    clip: Path,
    loaded: LoadedModel,
    tools: InferenceTools,
) -> Asking:
    async def refresh(path: str) -> RemoteFile:
        files = await tools.jobs.get_adapter_files(question.token, question.job_id)
        return next(file for file in files if file.path == path)

    adapter = None
    if responder is Responder.TUNED:
        adapter = await tools.host.take_adapter(loaded, resolved.adapter, refresh)
    return Asking(
        clip=str(clip),
        adapter=adapter,
        prompt=question.prompt,
        sampling=resolved.job.sampling,
        max_new_tokens=question.max_new_tokens,
        temperature=question.temperature,
    )


async def _answer(
    responder: Responder, asking: Asking, question: Question, loaded: LoadedModel, tools: InferenceTools
) -> AsyncGenerator[AnswerPiece, None]:
    text = ""
    async with contextlib.aclosing(tools.host.ask(loaded, asking, question.client)) as pieces:
        async for piece in pieces:
            if isinstance(piece, TokenText):
                text += piece.text
                yield AnswerText(responder, piece.text)
            else:
                structlog.get_logger().info(
                    "question.answered", job_id=question.job_id, responder=responder, seconds=piece.seconds
                )
                yield AnswerEnd(responder, text, piece.prompt_tokens, piece.generated_tokens, piece.finish == "length")


def _model_refresh(question: Question, resolved: _Resolved, tools: InferenceTools) -> Refresh:
    async def refresh(path: str) -> RemoteFile:
        files = await tools.catalog.get_model_files(question.token, resolved.job.model_id)
        return next(file for file in files if file.path == path)

    return refresh
