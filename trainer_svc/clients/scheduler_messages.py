"""Between the scheduler's messages and the trainer's domain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reeltune.scheduler.v1 import (
    artifact_pb2,
    attempt_service_pb2,
    job_event_pb2,
    prediction_pb2,
    recipe_pb2,
    training_job_pb2,
    worker_pb2,
)

from trainer_svc.clients.parameters import rehearsal_from_proto, specification_from_proto
from trainer_svc.clients.post_training import evaluation_from_proto, merge_from_proto
from trainer_svc.domain.attempt import (
    FailReason,
    JobClaim,
    Recipe,
    RemoteCheckpoint,
    RemoteFile,
    RemotePart,
    fit_message,
)
from trainer_svc.domain.device import Device
from trainer_svc.domain.errors import DeviceUnfitError
from trainer_svc.domain.reports import (
    LogLine,
    MetricPoint,
    NumberedReport,
    Prediction,
    Predictions,
    Progress,
    TrainingStarted,
)

_LOG_BYTES = 4096


def claim_from_proto(claim: attempt_service_pb2.Claim) -> JobClaim:
    """The claim; one whose parameters this trainer does not know is one all the same, to be given back."""
    job = claim.job
    parameters: dict[str, Any]
    try:
        parameters = _parameters(job)
    except DeviceUnfitError as error:
        parameters = {"specification": {}, "unknown": str(error)}
    return JobClaim(
        job_id=job.id,
        attempt=job.attempt,
        owner_id=job.owner_id,
        model_id=job.model_id,
        dataset_id=job.dataset_id,
        grant=claim.grant,
        checkpoint=checkpoint_from_proto(claim.checkpoint) if claim.HasField("checkpoint") else None,
        device_count=max(job.device_count, 1),
        **parameters,
    )


def _parameters(job: training_job_pb2.TrainingJob) -> dict[str, Any]:
    rehearsal = None
    if job.parameters.HasField("rehearsal"):
        rehearsal = rehearsal_from_proto(job.parameters.rehearsal, job.attempt)
    return {
        "specification": specification_from_proto(job.parameters),
        "rehearsal": rehearsal,
        "evaluation": evaluation_from_proto(job.post_training),
        "merge": merge_from_proto(job.post_training),
    }


def checkpoint_from_proto(checkpoint: attempt_service_pb2.Checkpoint) -> RemoteCheckpoint:
    return RemoteCheckpoint(checkpoint.step, files_from_proto(checkpoint.files), checkpoint.attempt)


def files_from_proto(files: Iterable[artifact_pb2.ArtifactFile]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(
            file.path,
            file.size_bytes,
            file.sha256,
            file.url,
            tuple(RemotePart(part.number, part.offset_bytes, part.size_bytes, part.url) for part in file.parts),
        )
        for file in files
    )


def files_to_proto(files: Iterable[RemoteFile]) -> list[artifact_pb2.ArtifactFile]:
    """The files without their URLs, which are for the object store alone."""
    return [artifact_pb2.ArtifactFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in files]


def report_to_proto(numbered: NumberedReport) -> attempt_service_pb2.AttachRequest:
    request = attempt_service_pb2.AttachRequest(report=numbered.number)
    match numbered.report:
        case TrainingStarted(total_steps):
            request.started.total_steps = total_steps
        case Progress() as progress:
            request.progress.CopyFrom(progress_to_proto(progress))
        case MetricPoint() as point:
            request.metrics.CopyFrom(metrics_to_proto(point))
        case LogLine() as line:
            request.log.CopyFrom(log_to_proto(line))
        case Predictions() as predictions:
            request.predictions.CopyFrom(predictions_to_proto(predictions))
    return request


def predictions_to_proto(predictions: Predictions) -> prediction_pb2.Predictions:
    return prediction_pb2.Predictions(
        step=predictions.step,
        best=map(_prediction_to_proto, predictions.best),
        worst=map(_prediction_to_proto, predictions.worst),
    )


def _prediction_to_proto(prediction: Prediction) -> prediction_pb2.Prediction:
    return prediction_pb2.Prediction(
        sample_id=fit_message(prediction.sample_id),
        question=fit_message(prediction.question),
        expected=fit_message(prediction.expected),
        generated=fit_message(prediction.generated),
        loss=prediction.loss,
        is_cut=prediction.is_cut,
    )


def progress_to_proto(progress: Progress) -> training_job_pb2.JobProgress:
    return training_job_pb2.JobProgress(
        phase=progress.phase.encode(errors="replace").decode(),
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        fraction=progress.fraction,
        loss=progress.loss,
    )


def metrics_to_proto(point: MetricPoint) -> job_event_pb2.MetricPoint:
    return job_event_pb2.MetricPoint(step=point.step, values=dict(point.values))


def log_to_proto(line: LogLine) -> job_event_pb2.LogLine:
    level = job_event_pb2.LogLevel.Value(f"LOG_LEVEL_{line.level.upper()}")
    text = line.text.encode(errors="replace")[:_LOG_BYTES].decode(errors="ignore")
    return job_event_pb2.LogLine(level=level, text=text)


def device_to_proto(device: Device) -> worker_pb2.Device:
    return worker_pb2.Device(
        device_class=worker_pb2.DeviceClass.Value(f"DEVICE_CLASS_{device.device_class}"),
        name=device.name,
        memory_bytes=device.memory_bytes,
        can_train_4bit=device.can_train_4bit,
        four_bit_problem=device.four_bit_problem,
        decoder=device.decoder,
        versions=dict(device.versions),
        device_count=device.device_count,
        driver_version=device.driver_version,
        compute_types=device.compute_types,
        matmul_flops=device.matmul_flops,
        decode_pixels_per_second=device.decode_pixels_per_second,
        profile=device.profile,
    )


def recipes_to_proto(recipes: Iterable[Recipe]) -> list[recipe_pb2.Recipe.ValueType]:
    return sorted(recipe_pb2.Recipe.Value(f"RECIPE_{recipe}") for recipe in recipes)


def reason_to_proto(reason: FailReason) -> training_job_pb2.StateReason.ValueType:
    return training_job_pb2.StateReason.Value(f"STATE_REASON_{reason}")
