"""`InferenceService`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias, cast

import grpc
from reeltune.trainer.v1 import inference_service_pb2 as pb
from reeltune.trainer.v1 import inference_service_pb2_grpc

from meshkit.auth.principal import current_principal
from meshkit.cancellation import cancel_all
from trainer_svc.domain.errors import InferenceInterruptedError
from trainer_svc.domain.inference import AnswerPiece, Question
from trainer_svc.rpc.convert import piece_to_proto, question_from_proto
from trainer_svc.usecases.answer_question import InferenceTools, answer_question

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers questions about clips."""

    def __init__(self, tools: InferenceTools, stopping: asyncio.Event) -> None:
        """`stopping`: set when the trainer goes away; answers are cut then, so that it can."""
        self._tools = tools
        self._stopping = stopping

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        principal = current_principal()
        question = question_from_proto(request, client=principal.subject, token=principal.token)
        pieces: asyncio.Queue[AnswerPiece | None] = asyncio.Queue()
        # In a task of its own: it is cancelled for certain when the client leaves, wherever this generator stands.
        answering = asyncio.create_task(_answer(question, self._tools, pieces), name="answer")
        stopping = asyncio.create_task(self._stop(answering), name="answer-stop")
        # The stubs type the callback as a class of their own, which no function is.
        cast("Any", context).add_done_callback(lambda _: answering.cancel())
        try:
            while (piece := await pieces.get()) is not None:
                yield piece_to_proto(piece)
            try:
                await answering
            except asyncio.CancelledError:
                if not self._stopping.is_set():
                    raise
                raise InferenceInterruptedError("the trainer goes away") from None
        finally:
            await cancel_all(answering, stopping)

    async def _stop(self, answering: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        answering.cancel()


async def _answer(question: Question, tools: InferenceTools, pieces: asyncio.Queue[AnswerPiece | None]) -> None:
    try:
        async with contextlib.aclosing(answer_question(question, tools)) as answer:
            async for piece in answer:
                pieces.put_nowait(piece)
    finally:
        pieces.put_nowait(None)
