"""PostTrainingService: evaluations and merges; and SourceService, by which their trainers read what they begin with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from reeltune.scheduler.v1 import evaluation_pb2, merge_pb2, source_service_pb2
from reeltune.scheduler.v1 import post_training_service_pb2 as pb
from reeltune.scheduler.v1.post_training_service_pb2_grpc import PostTrainingServiceServicer
from reeltune.scheduler.v1.source_service_pb2_grpc import SourceServiceServicer

from meshkit.auth.principal import current_principal
from scheduler_svc.clients.attempt_files import URL_TTL, AttemptFiles
from scheduler_svc.domain.errors import ArtifactDamaged
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import Recipe
from scheduler_svc.domain.post_training_parameters import merge_from_json, resolve_evaluation
from scheduler_svc.rpc.caller import Context, calling_attempt, calling_user
from scheduler_svc.rpc.convert import artifact_to_proto, check_printable, device_class_from_proto, job_to_proto
from scheduler_svc.rpc.parameters_convert import evaluation_from_proto, merge_from_proto
from scheduler_svc.rpc.request_keys import request_key
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.usecases.read_report import REPORTS, read_report
from scheduler_svc.usecases.submit_post_training import (
    PostTrainingRequest,
    PostTrainingStores,
    evaluate_job,
    merge_job,
)

M = TypeVar("M", bound=Message)


class PostTrainingServicer(PostTrainingServiceServicer):
    """Serves the rpcs; every query is bound to the caller's own jobs."""

    def __init__(self, stores: PostTrainingStores, files: AttemptFiles) -> None:
        self._stores = stores
        self._files = files

    async def EvaluateTrainingJob(
        self, request: pb.EvaluateTrainingJobRequest, context: Context
    ) -> pb.EvaluateTrainingJobResponse:
        evaluation = resolve_evaluation(evaluation_from_proto(request.parameters))
        job = await evaluate_job(_request(request), evaluation, self._stores)
        return pb.EvaluateTrainingJobResponse(job=job_to_proto(job))

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Context) -> pb.GetEvaluationResponse:
        evaluation = await self._report(request.job_id, Recipe.EVALUATION, evaluation_pb2.Evaluation())
        return pb.GetEvaluationResponse(evaluation=evaluation)

    async def MergeTrainingJob(
        self, request: pb.MergeTrainingJobRequest, context: Context
    ) -> pb.MergeTrainingJobResponse:
        merge = merge_from_json(merge_from_proto(request.parameters))
        job = await merge_job(_request(request), merge, self._stores)
        return pb.MergeTrainingJobResponse(job=job_to_proto(job))

    async def GetMerge(self, request: pb.GetMergeRequest, context: Context) -> pb.GetMergeResponse:
        return pb.GetMergeResponse(merge=await self._report(request.job_id, Recipe.MERGE, merge_pb2.Merge()))

    async def _report(self, job_id: str, recipe: Recipe, into: M) -> M:
        job, report = await read_report(JobId(job_id), calling_user(), recipe, self._stores.jobs, self._files)
        try:
            json_format.ParseDict(report, into, ignore_unknown_fields=True)
        except json_format.ParseError as error:
            raise ArtifactDamaged(job.id, REPORTS[recipe]) from error
        # Whose they are is the database's to say, not the report's.
        ids = {"job_id": job.id, "source_job_id": job.source_job_id, "dataset_id": job.dataset_id}
        for name, value in ids.items():
            if name in into.DESCRIPTOR.fields_by_name:
                setattr(into, name, value)
        return into


class SourceServicer(SourceServiceServicer):
    """Serves the rpc; a grant says which attempt, and so which source, a call is about."""

    def __init__(self, attempts: AttemptStore, files: AttemptFiles) -> None:
        self._attempts = attempts
        self._files = files

    async def GetSourceArtifact(
        self, request: source_service_pb2.GetSourceArtifactRequest, context: Context
    ) -> source_service_pb2.GetSourceArtifactResponse:
        artifact = await self._attempts.get_source_artifact(calling_attempt())
        expire_time = datetime.now(UTC) + URL_TTL
        urls = self._files.download_urls(artifact.files)
        return source_service_pb2.GetSourceArtifactResponse(artifact=artifact_to_proto(artifact, urls, expire_time))


def _request(request: pb.EvaluateTrainingJobRequest | pb.MergeTrainingJobRequest) -> PostTrainingRequest:
    principal = current_principal()
    return PostTrainingRequest(
        owner_id=UserId(principal.subject),
        token=principal.token,
        source_job_id=JobId(request.job_id),
        dataset_id=request.dataset_id,
        name=check_printable("name", request.name),
        device_class=device_class_from_proto(request.device_class),
        priority=request.priority,
        key=request_key(request),
    )
