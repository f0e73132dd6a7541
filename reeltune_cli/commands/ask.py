"""`reeltune ask JOB CLIP QUESTION`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from reeltune.trainer.v1 import inference_service_pb2 as pb

from reeltune_cli.client import Client, ClientError
from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.commands.options import JobArgument
from reeltune_cli.invocation import Invocation, add_command, printable
from reeltune_cli.tables import enum_word, to_document

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
    both: Annotated[bool, typer.Option("--both", help="Ask the base model, then the tuned one.")] = False,
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
        answers = await _answers(cli, client, request)
        if cli.is_json:  # a person has read the answers already, as they came
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
    cli: Invocation, client: Client, request: pb.GenerateRequest
) -> list[tuple[pb.Responder.ValueType, pb.GenerateEnd]]:
    ended: list[tuple[pb.Responder.ValueType, pb.GenerateEnd]] = []
    speaking: int | None = None
    call = client.inference.Generate(request, metadata=(("x-reeltune-job", request.job_id),), timeout=_TIMEOUT_SECONDS)
    async for message in call:
        if message.WhichOneof("piece") == "end":
            ended.append((message.responder, message.end))
            _say(cli, "\n")
            continue
        if request.responder == pb.RESPONDER_BOTH and message.responder != speaking:
            _say(cli, f"{enum_word(pb.Responder, message.responder, 'RESPONDER_')}: ")
            speaking = message.responder
        _say(cli, printable(message.text))
    expected = 2 if request.responder == pb.RESPONDER_BOTH else 1
    if len(ended) < expected:
        raise ClientError("the answer was cut", "ANSWER_CUT", "ask again")
    return ended


def _say(cli: Invocation, text: str) -> None:
    """Prints a piece of an answer as it comes."""
    if not cli.is_json:
        sys.stdout.write(text)
        sys.stdout.flush()
