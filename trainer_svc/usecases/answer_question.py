"""Answer a user's question about a clip, with what that user may read."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from trainer_svc import metrics
from trainer_svc.clients.catalog import CatalogClient
from trainer_svc.clients.jobs import JobsClient, TunedJob
from trainer_svc.domain.attempt import RemoteFile
from trainer_svc.domain.device import Device
from trainer_svc.domain.errors import DeviceUnfitError, StorageUnavailableError
from trainer_svc.domain.inference import AnswerEnd, AnswerPiece, AnswerText, Asking, DatasetClip, Question, Responder
from trainer_svc.domain.limits import InferenceLimits
from trainer_svc.qlora.messages import GenerationDone, SideDone, TokenText
from trainer_svc.usecases.content_cache import ContentCache, refresh_from
from trainer_svc.usecases.inference_host import AskedModel, InferenceHost, LoadedModel, Piece
from trainer_svc.usecases.probe_device import DeviceProbe
from trainer_svc.usecases.take_turns import Turns
from trainer_svc.usecases.training_first import TrainingFirst


@dataclass(frozen=True, slots=True)
class InferenceTools:
    jobs: JobsClient
    catalog: CatalogClient
    cache: ContentCache
    host: InferenceHost
    turns: Turns
    probe: DeviceProbe
    training_first: TrainingFirst
    clips_folder: Path
    limits: InferenceLimits


@dataclass(frozen=True, slots=True)
class _Resolved:
    job: TunedJob
    base: AskedModel
    adapter: tuple[RemoteFile, ...]


async def answer_question(question: Question, tools: InferenceTools) -> AsyncGenerator[AnswerPiece, None]:
    """Yields the answer piece by piece; of two responders, one token of each in turn.

    Raises:
        Failure: what scheduler or catalog say to this user: not found, not ready …
        DeviceUnfitError, ModelUnfitError, InferenceBusyError, InferenceInterruptedError, QuestionRefusedError,
        StorageUnavailableError, SchedulerUnavailableError.
    """
    resolved = await _resolve(question, tools)
    _check_device(await tools.probe.result(), resolved.base)
    tools.turns.check_room()
    async with (
        _clip(question, tools) as clip,
        tools.turns.turn(question.client),
        tools.training_first.yielding(),
    ):
        tools.training_first.check_room(resolved.base)
        refresh = refresh_from(lambda _: tools.catalog.get_model_files(question.token, resolved.job.model_id))
        loaded = await tools.host.load(resolved.base, refresh)
        asking = await _asking(question, resolved, clip, loaded, tools)
        async with contextlib.aclosing(_answer(asking, question, loaded, tools)) as pieces:
            async for piece in pieces:
                yield piece


async def stop_when_idle(tools: InferenceTools) -> None:
    """Ends an inference process that nobody has asked for a while; watches for ever."""
    while True:
        await asyncio.sleep(max(0.05, tools.limits.idle / 10))
        if tools.host.idle_seconds > tools.limits.idle and not tools.turns.is_taken:
            async with tools.turns.turn(""):
                await tools.host.stop()
            await tools.cache.evict()


async def _resolve(question: Question, tools: InferenceTools) -> _Resolved:
    job = await tools.jobs.get_job(question.token, question.job_id)
    adapter: tuple[RemoteFile, ...] = ()
    if Responder.TUNED in question.responders:
        adapter = await tools.jobs.get_adapter_files(question.token, question.job_id)
    files = await tools.catalog.get_model_files(question.token, job.model_id)
    return _Resolved(job, AskedModel(files, job.quantization), adapter)


def _check_device(device: Device, base: AskedModel) -> None:
    if base.quantization["bits"] == 4 and not device.can_train_4bit:
        raise DeviceUnfitError(f"this trainer cannot compute in 4 bits: {device.four_bit_problem}")
    if not device.decoder:
        raise DeviceUnfitError("this trainer has no working video decoder")


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
    refresh = refresh_from(lambda path: tools.catalog.get_clips(question.token, clip.dataset_id, [path]))
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
    clip: Path,
    loaded: LoadedModel,
    tools: InferenceTools,
) -> Asking:
    adapter = None
    if Responder.TUNED in question.responders:
        refresh = refresh_from(lambda _: tools.jobs.get_adapter_files(question.token, question.job_id))
        adapter = await tools.host.take_adapter(loaded, resolved.adapter, refresh)
    return Asking(
        clip=str(clip),
        adapter=adapter,
        prompt=question.prompt,
        sampling=resolved.job.sampling,
        max_new_tokens=question.max_new_tokens,
        temperature=question.temperature,
        beside_base=len(question.responders) > 1,
    )


async def _answer(
    asking: Asking, question: Question, loaded: LoadedModel, tools: InferenceTools
) -> AsyncGenerator[AnswerPiece, None]:
    texts = dict.fromkeys(question.responders, "")
    async with contextlib.aclosing(tools.host.ask(loaded, asking)) as pieces:
        async for piece in pieces:
            responder = _responder(piece, question)
            if isinstance(piece, TokenText):
                texts[responder] += piece.text
                yield AnswerText(responder, piece.text)
            elif isinstance(piece, SideDone) or not asking.beside_base:
                is_truncated = piece.finish == "length"
                yield AnswerEnd(responder, texts[responder], piece.prompt_tokens, piece.generated_tokens, is_truncated)
            if isinstance(piece, GenerationDone):
                metrics.PROMPT_TOKENS.inc(piece.prompt_tokens)
                metrics.ANSWER_TOKENS.inc(piece.generated_tokens)
                metrics.ANSWER_SECONDS.observe(piece.seconds)
                structlog.get_logger().info(
                    "question.answered",
                    job_id=question.job_id,
                    responders=[str(each) for each in question.responders],
                    seconds=piece.seconds,
                    tokens=piece.generated_tokens,
                )


def _responder(piece: Piece, question: Question) -> Responder:
    if len(question.responders) == 1:
        return question.responders[0]
    return Responder.BASE if isinstance(piece, TokenText | SideDone) and piece.of_base else Responder.TUNED
