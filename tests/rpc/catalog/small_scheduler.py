"""Stands where the scheduler is: live jobs and quotas, as a test sets them."""

from __future__ import annotations

from typing import Any

import grpc
from reeltune.scheduler.v1 import quota_pb2, quota_service_pb2, use_service_pb2
from reeltune.scheduler.v1.quota_service_pb2_grpc import QuotaServiceServicer, add_QuotaServiceServicer_to_server
from reeltune.scheduler.v1.use_service_pb2_grpc import UseServiceServicer, add_UseServiceServicer_to_server

from meshkit.auth.principal import current_principal
from meshkit.rpc.failure import Failure
from meshkit.rpc.registration import ServicerRegistration


class SmallScheduler(UseServiceServicer, QuotaServiceServicer):
    """Answers what it is told to."""

    def __init__(self) -> None:
        self.job_ids: list[str] = []
        self.others = 0
        self.quotas: dict[str, quota_pb2.Quota] = {}
        self.is_away = False
        self.quota_calls = 0

    @property
    def registrations(self) -> list[ServicerRegistration]:
        return [
            ServicerRegistration(add_UseServiceServicer_to_server, self),
            ServicerRegistration(add_QuotaServiceServicer_to_server, self),
        ]

    async def ListUses(self, request: Any, context: Any) -> use_service_pb2.ListUsesResponse:
        self._check_here()
        assert request.live_only
        shown = self.job_ids[: request.page_size]
        return use_service_pb2.ListUsesResponse(
            uses=[use_service_pb2.Use(job_id=job_id) for job_id in shown],
            next_page_token="more" if len(self.job_ids) > len(shown) else "",
            live_jobs_of_others=self.others,
        )

    async def GetMyQuota(self, request: Any, context: Any) -> quota_service_pb2.GetMyQuotaResponse:
        self._check_here()
        self.quota_calls += 1
        quota = self.quotas.get(current_principal().subject, quota_pb2.Quota())
        return quota_service_pb2.GetMyQuotaResponse(quota=quota)

    def _check_here(self) -> None:
        if self.is_away:
            raise Failure(grpc.StatusCode.UNAVAILABLE, "AWAY", "the scheduler is away")
