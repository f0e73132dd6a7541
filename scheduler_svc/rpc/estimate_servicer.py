"""EstimateService: what a training job will take."""

from __future__ import annotations

from reeltune.scheduler.v1 import estimate_service_pb2 as pb
from reeltune.scheduler.v1 import worker_pb2
from reeltune.scheduler.v1.estimate_service_pb2_grpc import EstimateServiceServicer

from meshkit.auth.principal import current_principal
from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.domain.estimate.effort import Duration
from scheduler_svc.domain.estimate.fit import Estimate, Fit
from scheduler_svc.domain.estimate.place import Place
from scheduler_svc.rpc.caller import Context
from scheduler_svc.rpc.convert import device_class_from_proto
from scheduler_svc.rpc.parameters_convert import given_from_proto, parameters_to_proto
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.estimate_training import EstimateRequest, TrainingEstimate, estimate_training


class EstimateServicer(EstimateServiceServicer):
    """Serves the rpc."""

    def __init__(self, workers: WorkerStore, catalog: Catalog) -> None:
        self._workers = workers
        self._catalog = catalog

    async def EstimateTrainingJob(
        self, request: pb.EstimateTrainingJobRequest, context: Context
    ) -> pb.EstimateTrainingJobResponse:
        asked = EstimateRequest(
            token=current_principal().token,
            model_id=request.model_id,
            dataset_id=request.dataset_id,
            parameters=given_from_proto(request.parameters),
            device_class=device_class_from_proto(request.device_class),
            named=[Place(device_class_from_proto(each.device_class), each.memory_bytes) for each in request.devices],
            device_count=request.device_count or 1,
        )
        return _to_proto(await estimate_training(asked, self._workers, self._catalog))


def _to_proto(found: TrainingEstimate) -> pb.EstimateTrainingJobResponse:
    return pb.EstimateTrainingJobResponse(
        tokens=_tokens_to_proto(found),
        devices=[_device_to_proto(each) for each in found.devices],
        trained_parameters=found.trained_parameters,
        parameters=parameters_to_proto(found.parameters),
    )


def _tokens_to_proto(found: TrainingEstimate) -> pb.TokenEstimate | None:
    if found.tokens is None:
        return None
    largest, mean, rule = found.tokens.largest, found.tokens.mean, found.model.frame_rule
    return pb.TokenEstimate(
        max_visual_tokens=largest.visual,
        max_text_tokens=largest.text,
        mean_visual_tokens=mean.visual,
        mean_text_tokens=mean.text,
        max_frames=largest.frames,
        context_length=found.model.context_length,
        rows_over_context=found.rows_over_context,
        samples_over_context=found.samples_over_context,
        is_upper_bound=rule is not None and rule.is_upper_bound,
    )


def _device_to_proto(found: Estimate) -> pb.DeviceEstimate:
    memory, suggestion = found.memory, found.suggestion
    fitting = None
    if suggestion is not None:
        fitting = pb.FitSuggestion(
            max_frames=suggestion.max_frames,
            max_pixels=suggestion.max_pixels,
            batch_size=suggestion.batch_size,
            total_bytes=suggestion.total_bytes,
        )
    return pb.DeviceEstimate(
        device_class=worker_pb2.DeviceClass.Value(f"DEVICE_CLASS_{found.place.device_class}"),
        memory_bytes=found.place.memory_bytes,
        trainers=found.place.names,
        fit=pb.FIT_UNSPECIFIED if found.fit is Fit.UNKNOWN else pb.Fit.Value(f"FIT_{found.fit}"),
        total_bytes=memory.total,
        least_bytes=memory.least,
        most_bytes=memory.most,
        parts=[
            pb.PartEstimate(part=pb.MemoryPart.Value(f"MEMORY_PART_{part}"), size_bytes=size)
            for part, size in memory.parts
        ],
        time=None if found.duration is None else _time_to_proto(found.duration),
        suggestion=fitting,
    )


def _time_to_proto(duration: Duration) -> pb.TimeEstimate:
    return pb.TimeEstimate(
        total_seconds=duration.total,
        step_seconds=duration.step_seconds,
        steps=duration.steps,
        dominant=pb.Effort.Value(f"EFFORT_{duration.dominant}"),
        efforts=[
            pb.EffortEstimate(effort=pb.Effort.Value(f"EFFORT_{effort}"), seconds=seconds)
            for effort, seconds in duration.efforts
        ],
    )
