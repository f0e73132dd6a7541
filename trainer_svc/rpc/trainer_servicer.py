"""`TrainerService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from reeltune.trainer.v1 import trainer_service_pb2 as pb
from reeltune.trainer.v1 import trainer_service_pb2_grpc

from meshkit.auth.principal import current_principal
from trainer_svc.clients.scheduler_messages import device_to_proto
from trainer_svc.rpc.convert import attempt_to_proto, report_to_proto
from trainer_svc.usecases.live_attempt import LiveAttempts
from trainer_svc.usecases.probe_device import DeviceProbe
from trainer_svc.usecases.register_worker import WorkerRegistration
from trainer_svc.usecases.watch_attempt import WatchTools, watch_attempt

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class TrainerServicer(trainer_service_pb2_grpc.TrainerServiceServicer):
    """Shows this trainer."""

    def __init__(
        self, probe: DeviceProbe, registration: WorkerRegistration, live: LiveAttempts, watching: WatchTools
    ) -> None:
        self._probe = probe
        self._registration = registration
        self._live = live
        self._watching = watching

    async def GetDevice(self, request: pb.GetDeviceRequest, context: Context) -> pb.GetDeviceResponse:
        device = self._probe.device
        return pb.GetDeviceResponse(
            device=device_to_proto(device) if device else None,
            probing=device is None,
            worker_id=self._registration.worker_id,
        )

    async def ListAttempts(
        self,
        request: pb.ListAttemptsRequest,
        context: Context,
    ) -> pb.ListAttemptsResponse:
        attempts = self._live.of_owner(current_principal().subject)
        return pb.ListAttemptsResponse(attempts=[attempt_to_proto(attempt) for attempt in attempts])

    async def WatchProgress(
        self,
        request: pb.WatchProgressRequest,
        context: Context,
    ) -> AsyncIterator[pb.WatchProgressResponse]:
        caller = current_principal()
        async for report in watch_attempt(request.job_id, caller.subject, caller.token, self._watching):
            message = report_to_proto(report)
            if message is not None:
                yield message
