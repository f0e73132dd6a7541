"""Asks models about held-out clips through the mesh and counts the right answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reeltune.trainer.v1 import inference_service_pb2 as pb

from reeltune_cli.client.connection import Client
from reeltune_cli.demo.dataset import DemoRow

_ASK_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers to the same questions, in the questions' order."""

    base: Sequence[str]
    tuned: Sequence[str]
    shuffled: Sequence[str]
    """The tuned model's, about another question's clip."""


async def evaluate(
    client: Client, job_id: str, folder: Path, rows: Sequence[DemoRow], *, max_new_tokens: int, done: Callable[[], None]
) -> Evaluation:
    """Asks base and tuned model about every row's clip, and the tuned one about the clip of another row."""
    base, tuned, shuffled = [], [], []
    for row, other in zip(rows, shuffle_clips(rows), strict=True):
        answers = await ask(client, job_id, folder / row.video, row.question, pb.RESPONDER_BOTH, max_new_tokens)
        base.append(answers[pb.RESPONDER_BASE])
        tuned.append(answers[pb.RESPONDER_TUNED])
        answers = await ask(client, job_id, folder / other.video, row.question, pb.RESPONDER_TUNED, max_new_tokens)
        shuffled.append(answers[pb.RESPONDER_TUNED])
        done()
    return Evaluation(base, tuned, shuffled)


async def ask(
    client: Client, job_id: str, clip: Path, question: str, responder: pb.Responder.ValueType, max_new_tokens: int
) -> dict[int, str]:
    """Asks about one clip and returns the whole answers by responder."""
    clip_data = await asyncio.to_thread(clip.read_bytes)
    request = pb.GenerateRequest(
        job_id=job_id, clip_data=clip_data, prompt=question, responder=responder, max_new_tokens=max_new_tokens
    )
    metadata = (("x-reeltune-job", job_id),)
    answers: dict[int, str] = {}
    async for piece in client.inference.Generate(request, metadata=metadata, timeout=_ASK_TIMEOUT_SECONDS):
        if piece.HasField("end"):
            answers[piece.responder] = piece.end.text
    return answers


def exact_match(answers: Sequence[str], rows: Sequence[DemoRow]) -> float:
    """Share of answers that are the row's, letter case and outer white space aside."""
    right = sum(normalised(answer) == normalised(row.answer) for answer, row in zip(answers, rows, strict=True))
    return right / len(rows)


def normalised(answer: str) -> str:
    """The answer as it is compared."""
    return " ".join(answer.lower().split())


def shuffle_clips(rows: Sequence[DemoRow], seed: int = 0) -> list[DemoRow]:
    """The rows in an order in which none is at its own place, the same for the same seed."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)  # noqa: S311 - a permutation, not a secret
    partner = {place: order[(number + 1) % len(order)] for number, place in enumerate(order)}
    return [rows[partner[place]] for place in range(len(rows))]
