"""`reeltune ask JOB CLIP QUESTION`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from reeltune.trainer.v1 import inference_service_pb2 as pb
from rich.console import Console

from reeltune_cli.answers_view import BOTH, AnswersView, Who
from reeltune_cli.client import Client, ClientError
from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.commands.options import JobArgument
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import to_document

_MAX_CLIP_BYTES = 3 * 1024 * 1024
_TIMEOUT_SECONDS = 600


def register(app: typer.Typer) -> None:
    """Adds the command to the application."""
    add_command(app, "ask", ask)


async def ask(
    cli: Invocation,
    job: JobArgument,
    clip: Annotated[str, typer.Argument(help="A clip file of at most 3 MiB, or DATASET:PATH.", show_default=False)],
    question: Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)],
    base: Annotated[bool, typer.Option("--base", help="Ask the base model.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Ask the base model and the tuned one, side by side.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=2048, help="Longest answer, in tokens.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 always takes the likeliest word.", show_default=False)
    ] = None,
) -> None:
    """Ask a job's tuned model about a clip."""
    async with cli.client() as client:
        request = pb.GenerateRequest(
            job_id=job,
            prompt=question,
            responder=_responder(base, both),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
        )
        await _add_clip(client, request, clip)
        if not cli.is_json:  # a person reads the answers as they come
            view = AnswersView(Console(highlight=False), _responders(request.responder))
            with view.shown():
                await _answers(client, request, view)
            return
        answers = await _answers(client, request, None)
        document = [{"responder": pb.Responder.Name(who), **to_document(end)} for who, end in answers]
        cli.answer({"answers": document}, "")


def _responder(base: bool, both: bool) -> pb.Responder.ValueType:
    if both:
        return pb.RESPONDER_BOTH
    return pb.RESPONDER_BASE if base else pb.RESPONDER_TUNED


async def _add_clip(client: Client, request: pb.GenerateRequest, clip: str) -> None:
    data = await asyncio.to_thread(_read_clip, Path(clip))
    if data is not None:
        request.clip_data = data
        return
    dataset, separator, path = clip.partition(":")
    if not separator or not path:
        raise ClientError(
            f"there is no file {clip}", "CLIP_NOT_FOUND", "name a clip file, or DATASET:PATH for a clip of a dataset"
        )
    request.dataset_clip.dataset_id = (await find_dataset(client, dataset)).id
    request.dataset_clip.path = path


def _read_clip(file: Path) -> bytes | None:
    """Returns the bytes of a clip file, or None if there is none."""
    if not file.is_file():
        return None
    if file.stat().st_size > _MAX_CLIP_BYTES:
        raise ClientError(f"{file} is larger than 3 MiB", "CLIP_TOO_LARGE", "upload it in a dataset: DATASET:PATH")
    return file.read_bytes()


async def _answers(
    client: Client, request: pb.GenerateRequest, view: AnswersView | None
) -> list[tuple[Who, pb.GenerateEnd]]:
    """The ends of the answers, the base model's first."""
    ended: dict[Who, pb.GenerateEnd] = {}
    call = client.inference.Generate(request, metadata=(("x-reeltune-job", request.job_id),), timeout=_TIMEOUT_SECONDS)
    async for message in call:
        if message.WhichOneof("piece") == "end":
            ended[message.responder] = message.end
        elif view is not None:
            view.add(message.responder, message.text)
    expected = _responders(request.responder)
    if len(ended) < len(expected):
        raise ClientError("the answer was cut", "ANSWER_CUT", "ask again")
    return [(who, ended[who]) for who in expected]


def _responders(asked: Who) -> tuple[Who, ...]:
    return BOTH if asked == pb.RESPONDER_BOTH else (asked,)
