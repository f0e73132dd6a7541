"""Between the trainer's own contract and its domain."""

from __future__ import annotations

from reeltune.trainer.v1 import inference_service_pb2, trainer_service_pb2

from trainer_svc.clients.scheduler_messages import log_to_proto, metrics_to_proto, progress_to_proto
from trainer_svc.domain.inference import AnswerPiece, AnswerText, DatasetClip, Question, Responder
from trainer_svc.domain.reports import LogLine, MetricPoint, Progress, Report
from trainer_svc.usecases.live_attempt import LiveAttempt

_DEFAULT_NEW_TOKENS = 64
_RESPONDERS = {
    inference_service_pb2.RESPONDER_UNSPECIFIED: (Responder.TUNED,),
    inference_service_pb2.RESPONDER_TUNED: (Responder.TUNED,),
    inference_service_pb2.RESPONDER_BASE: (Responder.BASE,),
    inference_service_pb2.RESPONDER_BOTH: (Responder.BASE, Responder.TUNED),
}


def question_from_proto(request: inference_service_pb2.GenerateRequest, *, client: str, token: str) -> Question:
    is_in_dataset = request.WhichOneof("clip") == "dataset_clip"
    clip = (
        DatasetClip(request.dataset_clip.dataset_id, request.dataset_clip.path) if is_in_dataset else request.clip_data
    )
    return Question(
        client=client,
        token=token,
        job_id=request.job_id,
        clip=clip,
        prompt=request.prompt,
        responders=_RESPONDERS[request.responder],
        max_new_tokens=request.max_new_tokens if request.HasField("max_new_tokens") else _DEFAULT_NEW_TOKENS,
        temperature=request.temperature,
    )


def piece_to_proto(piece: AnswerPiece) -> inference_service_pb2.GenerateResponse:
    response = inference_service_pb2.GenerateResponse(
        responder=inference_service_pb2.Responder.Value(f"RESPONDER_{piece.responder}")
    )
    if isinstance(piece, AnswerText):
        response.text = piece.text
    else:
        response.end.text = piece.text
        response.end.prompt_tokens = piece.prompt_tokens
        response.end.new_tokens = piece.new_tokens
        response.end.truncated = piece.is_truncated
    return response


def attempt_to_proto(attempt: LiveAttempt) -> trainer_service_pb2.Attempt:
    message = trainer_service_pb2.Attempt(
        job_id=attempt.claim.job_id,
        attempt=attempt.claim.attempt,
        progress=progress_to_proto(attempt.progress),
    )
    message.start_time.FromDatetime(attempt.start_time)
    return message


def report_to_proto(report: Report) -> trainer_service_pb2.WatchProgressResponse | None:
    """None for what a watcher sees from other reports anyway."""
    match report:
        case Progress():
            return trainer_service_pb2.WatchProgressResponse(progress=progress_to_proto(report))
        case MetricPoint():
            return trainer_service_pb2.WatchProgressResponse(metrics=metrics_to_proto(report))
        case LogLine():
            return trainer_service_pb2.WatchProgressResponse(log=log_to_proto(report))
    return None
