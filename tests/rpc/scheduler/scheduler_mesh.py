"""The scheduler as it is bootstrapped, with a small catalog and auth service beside it, and a client of each kind."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import httpx
from prometheus_client import CollectorRegistry
from reeltune.auth.v1 import (
    auth_service_pb2,
    auth_service_pb2_grpc,
    revocation_service_pb2,
    revocation_service_pb2_grpc,
    session_pb2,
)
from reeltune.catalog.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    dataset_statistics_pb2,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    sample_service_pb2,
    sample_service_pb2_grpc,
    visibility_pb2,
)
from reeltune.scheduler.v1 import artifact_pb2, job_event_pb2, recipe_pb2, training_job_pb2, worker_pb2
from reeltune.scheduler.v1 import attempt_service_pb2 as attempt_pb
from reeltune.scheduler.v1 import checkpoint_service_pb2 as checkpoint_pb
from reeltune.scheduler.v1 import training_service_pb2 as training_pb
from reeltune.scheduler.v1.attempt_service_pb2_grpc import AttemptServiceStub
from reeltune.scheduler.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from reeltune.scheduler.v1.estimate_service_pb2_grpc import EstimateServiceStub
from reeltune.scheduler.v1.quota_service_pb2_grpc import QuotaServiceStub
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub
from reeltune.scheduler.v1.use_service_pb2_grpc import UseServiceStub
from reeltune.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub

from meshkit.auth.keys import StaticKeys
from meshkit.auth.principal import Caller, current_principal
from meshkit.auth.revocations import session_digest
from meshkit.auth.tokens import (
    TokenSigner,
    TokenVerifier,
    TrustedIssuer,
    generate_private_key,
    public_jwk,
    public_pem,
)
from meshkit.background import Background
from meshkit.ids import new_id
from meshkit.lifecycle import Runtime
from meshkit.postgres import open_pool
from meshkit.rpc.client import bearer, open_channel
from meshkit.rpc.failure import Failure
from meshkit.rpc.server import build_server
from meshkit.rpc.status import failure_from_rpc_error
from scheduler_svc.bootstrap import bootstrap
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.store import load_queries
from scheduler_svc.store.expiry_store import ExpiryStore

Metadata = tuple[tuple[str, str], ...]
JOIN_SECRET = "the join secret of the tests"
_KID = "auth-test"


class UserKeys:
    """Stands where the auth service's keys are."""

    def __init__(self) -> None:
        self._pem = generate_private_key()
        keys = StaticKeys({_KID: public_pem(self._pem)})
        self.verifier = TokenVerifier([TrustedIssuer("reeltune-auth", "reeltune", "at+jwt", Caller.USER, keys)])
        self.jwk = public_jwk(self._pem, _KID)
        self.ended_sessions: set[str] = set()

    def user(
        self, subject: str, *roles: str, ttl: timedelta = timedelta(minutes=5), session_id: str = "ses_1"
    ) -> Metadata:
        """Returns call metadata of a signed-in user."""
        signer = TokenSigner(self._pem, kid=_KID, issuer="reeltune-auth", audience="reeltune", typ="at+jwt")
        return bearer(signer.sign(subject, ttl, {"roles": list(roles or ("user",)), "sid": session_id}))


class SmallAuth(auth_service_pb2_grpc.AuthServiceServicer, revocation_service_pb2_grpc.RevocationServiceServicer):
    """Publishes the keys, and the sessions that have ended."""

    def __init__(self, keys: UserKeys) -> None:
        self._keys = keys

    async def ListRevocations(self, request: Any, context: Any) -> revocation_service_pb2.ListRevocationsResponse:
        digests = [session_digest(session_id) for session_id in self._keys.ended_sessions]
        return revocation_service_pb2.ListRevocationsResponse(session_digests=digests)

    async def GetJwks(self, request: Any, context: Any) -> auth_service_pb2.GetJwksResponse:
        return auth_service_pb2.GetJwksResponse(keys=[session_pb2.JsonWebKey(**self._keys.jwk)])


class SmallCatalog(
    model_service_pb2_grpc.ModelServiceServicer,
    dataset_service_pb2_grpc.DatasetServiceServicer,
    sample_service_pb2_grpc.SampleServiceServicer,
):
    """Serves fixed models and datasets to their owners, and to all what has no owner."""

    def __init__(self) -> None:
        self.models: dict[str, model_pb2.Model] = {}
        self.datasets: dict[str, dataset_pb2.Dataset] = {}
        self.statistics: dict[str, dataset_statistics_pb2.DatasetStatistics] = {}
        self.counted: list[str] = []
        """The datasets whose statistics were asked for."""

    def add_model(self, owner_id: str = "", *, state: str = "READY", **facts: Any) -> str:
        """Adds a model that takes 16 frames unless told otherwise; returns its id."""
        model_id = new_id("mdl")
        self.models[model_id] = model_pb2.Model(
            id=model_id,
            owner_id=owner_id,
            state=model_pb2.ModelState.Value(f"MODEL_STATE_{state}"),
            facts=model_pb2.ModelFacts(**{"max_frames": 16, "has_video_processor": True, **facts}),
        )
        return model_id

    def add_dataset(self, owner_id: str = "", *, state: str = "READY", train_rows: int = 10, eval_rows: int = 0) -> str:
        """Adds a dataset; returns its id."""
        dataset_id = new_id("ds")
        self.datasets[dataset_id] = dataset_pb2.Dataset(
            id=dataset_id,
            owner_id=owner_id,
            state=dataset_pb2.DatasetState.Value(f"DATASET_STATE_{state}"),
            counts=dataset_pb2.DatasetCounts(rows=train_rows + eval_rows, train_rows=train_rows, eval_rows=eval_rows),
            version=3,
        )
        return dataset_id

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: Any
    ) -> model_service_pb2.GetModelResponse:
        return model_service_pb2.GetModelResponse(model=_visible(self.models, request.model_id))

    async def GetDataset(
        self, request: dataset_service_pb2.GetDatasetRequest, context: Any
    ) -> dataset_service_pb2.GetDatasetResponse:
        return dataset_service_pb2.GetDatasetResponse(dataset=_visible(self.datasets, request.dataset_id))

    async def GetDatasetStatistics(
        self, request: sample_service_pb2.GetDatasetStatisticsRequest, context: Any
    ) -> sample_service_pb2.GetDatasetStatisticsResponse:
        self.counted.append(request.dataset_id)
        statistics = self.statistics.get(request.dataset_id)
        if statistics is None:
            raise Failure(grpc.StatusCode.UNAVAILABLE, "BUSY", "later")
        return sample_service_pb2.GetDatasetStatisticsResponse(statistics=statistics)


def _visible(things: Mapping[str, Any], identifier: str) -> Any:
    thing = things.get(identifier)
    is_shared = thing is not None and thing.visibility == visibility_pb2.VISIBILITY_SHARED
    if thing is None or (thing.owner_id not in ("", current_principal().subject) and not is_shared):
        raise Failure(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "not there")
    return thing


@dataclass
class Replica:
    """One running scheduler."""

    channel: grpc.aio.Channel
    address: str
    settings: SchedulerSettings
    _stop: Callable[[], Awaitable[None]]
    background: Background = field(default_factory=Background)

    def __post_init__(self) -> None:
        self.training = TrainingServiceStub(self.channel)
        self.workers = WorkerServiceStub(self.channel)
        self.quotas = QuotaServiceStub(self.channel)
        self.uses = UseServiceStub(self.channel)
        self.estimates = EstimateServiceStub(self.channel)
        self.attempts = AttemptServiceStub(self.channel)

    async def stop(self) -> None:
        """Stops as a process does on SIGTERM."""
        await self._stop()


async def start_replica(settings: SchedulerSettings) -> Replica:
    """Bootstraps one scheduler on a free port."""
    stack = AsyncExitStack()
    background = Background()
    service = await bootstrap(settings, Runtime(stack, background, CollectorRegistry()))
    bound = build_server(
        settings,
        service.registrations,
        error_table=service.error_table,
        verifier=service.verifier,
        long_rpcs=service.long_rpcs,
        revocations=service.revocations,
    )
    await bound.server.start()
    address = f"127.0.0.1:{bound.port}"
    channel = open_channel(address)

    async def stop() -> None:
        await background.stop_intake()
        await bound.server.stop(2)
        await background.stop()
        assert background.failed_task is None
        await channel.close()
        await stack.aclose()

    return Replica(channel, address, settings, stop, background)


@dataclass
class User:
    """A signed-in user at one replica."""

    replica: Replica
    id: str
    metadata: Metadata
    model_id: str
    dataset_id: str

    @property
    def training(self) -> TrainingServiceStub:
        return self.replica.training

    def at(self, replica: Replica) -> User:
        """Returns the same user at another replica."""
        return User(replica, self.id, self.metadata, self.model_id, self.dataset_id)

    async def create(self, **fields: Any) -> training_job_pb2.TrainingJob:
        """Submits a job; keyword arguments are fields of the request."""
        request = training_pb.CreateTrainingJobRequest(
            **{"model_id": self.model_id, "dataset_id": self.dataset_id, **fields}
        )
        return (await self.training.CreateTrainingJob(request, metadata=self.metadata)).job

    async def get(self, job_id: str) -> training_job_pb2.TrainingJob:
        request = training_pb.GetTrainingJobRequest(job_id=job_id)
        return (await self.training.GetTrainingJob(request, metadata=self.metadata)).job

    async def stop(self, job_id: str) -> training_job_pb2.TrainingJob:
        request = training_pb.StopTrainingJobRequest(job_id=job_id)
        return (await self.training.StopTrainingJob(request, metadata=self.metadata)).job

    async def state(self, job_id: str) -> str:
        """Returns the job's state without its prefix."""
        return state_name((await self.get(job_id)).state)


def state_name(state: training_job_pb2.JobState.ValueType) -> str:
    """Returns a state without its prefix."""
    return training_job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


class Trainer:
    """A trainer as the scheduler sees it: real calls, no training."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.worker_id = ""
        self.token = ""

    async def register(
        self,
        *,
        device_class: str = "CPU",
        can_train_4bit: bool = True,
        name: str = "trainer",
        recipes: Sequence[str] = (),
        **found: Any,
    ) -> Trainer:
        """Registers, anew or again."""
        device = worker_pb2.Device(
            device_class=worker_pb2.DeviceClass.Value(f"DEVICE_CLASS_{device_class}"),
            name="test device",
            can_train_4bit=can_train_4bit,
            four_bit_problem="" if can_train_4bit else "named symbol not found",
            **found,
        )
        response = await self.replica.attempts.RegisterWorker(
            attempt_pb.RegisterWorkerRequest(
                join_secret=JOIN_SECRET,
                worker_id=self.worker_id,
                name=name,
                device=device,
                version="1",
                recipes=[recipe_pb2.Recipe.Value(f"RECIPE_{recipe}") for recipe in recipes],
            )
        )
        self.worker_id, self.token = response.worker_id, response.worker_token
        return self

    async def claim(self) -> Attempt | None:
        """Claims the next job, if any."""
        response = await self.replica.attempts.ClaimJob(attempt_pb.ClaimJobRequest(), metadata=bearer(self.token))
        return Attempt(self.replica, response.claim) if response.HasField("claim") else None

    async def must_claim(self) -> Attempt:
        """Claims a job that is there."""
        attempt = await self.claim()
        assert attempt is not None, "no job to claim"
        return attempt


class Attempt:
    """One claimed attempt."""

    def __init__(self, replica: Replica, claim: attempt_pb.Claim) -> None:
        self.replica = replica
        self.claim = claim
        self.grant = claim.grant

    @property
    def job_id(self) -> str:
        return self.claim.job.id

    @property
    def number(self) -> int:
        return self.claim.job.attempt

    @property
    def metadata(self) -> Metadata:
        return bearer(self.grant)

    def attach(self, replica: Replica | None = None) -> Attachment:
        """Opens the attempt's stream."""
        return Attachment((replica or self.replica).attempts.Attach(metadata=self.metadata))

    async def put_files(
        self, contents: Mapping[str, bytes], *, step: int | None = None
    ) -> list[artifact_pb2.ArtifactFile]:
        """Prepares and PUTs files; returns them without URLs."""
        files = [file_of(path, data) for path, data in contents.items()]
        for file in await self.prepare(files, step=step):
            if file.url:
                assert await put(file.url, contents[file.path]) == 200
            for part in file.parts:
                assert await put(part.url, bytes_of(part, contents[file.path])) == 200
        return files

    async def prepare(
        self, files: list[artifact_pb2.ArtifactFile], *, step: int | None = None, replica: Replica | None = None
    ) -> list[artifact_pb2.ArtifactFile]:
        """Asks where to PUT files."""
        request = attempt_pb.PrepareFilesRequest(files=files, checkpoint_step=step)
        stub = (replica or self.replica).attempts
        return list((await stub.PrepareFiles(request, metadata=self.metadata)).files)

    async def find_checkpoint(self, older_than: attempt_pb.Checkpoint | None = None) -> attempt_pb.Checkpoint | None:
        """Asks for the newest checkpoint, or the next older one."""
        request = checkpoint_pb.FindCheckpointRequest()
        if older_than is not None:
            request.older_than.attempt, request.older_than.step = older_than.attempt, older_than.step
        response = await CheckpointServiceStub(self.replica.channel).FindCheckpoint(request, metadata=self.metadata)
        return response.checkpoint if response.HasField("checkpoint") else None

    async def complete(self, files: list[artifact_pb2.ArtifactFile], **fields: Any) -> str:
        """Completes the attempt; returns the job's state."""
        request = attempt_pb.CompleteAttemptRequest(files=files, **fields)
        return state_name((await self.replica.attempts.CompleteAttempt(request, metadata=self.metadata)).state)

    async def commit_checkpoint(
        self, step: int, files: list[artifact_pb2.ArtifactFile], eval_loss: float | None = None
    ) -> None:
        checkpoint = attempt_pb.Checkpoint(step=step, files=files, eval_loss=eval_loss)
        request = attempt_pb.CommitCheckpointRequest(checkpoint=checkpoint)
        await self.replica.attempts.CommitCheckpoint(request, metadata=self.metadata)

    async def fail(self, reason: str, message: str = "") -> str:
        """Fails the attempt; returns the job's state."""
        request = attempt_pb.FailAttemptRequest(
            reason=training_job_pb2.StateReason.Value(f"STATE_REASON_{reason}"), message=message
        )
        return state_name((await self.replica.attempts.FailAttempt(request, metadata=self.metadata)).state)


class Attachment:
    """One stream of an attempt; replies are gathered while it is open."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.replies: list[attempt_pb.AttachResponse] = []
        self.error: grpc.aio.AioRpcError | None = None
        self._news = asyncio.Event()
        self._number = 0

    async def __aenter__(self) -> Attachment:
        self._reader = asyncio.create_task(self._read())
        await self.until(lambda: bool(self.replies) or self._reader.done())
        if self.error is not None:
            raise self.error
        self._number = self.acknowledged
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    @property
    def acknowledged(self) -> int:
        return max((reply.acknowledged_report for reply in self.replies), default=0)

    @property
    def must_stop(self) -> bool:
        return any(reply.order == attempt_pb.ORDER_STOP for reply in self.replies)

    @property
    def must_drain(self) -> bool:
        return any(reply.order == attempt_pb.ORDER_DRAIN for reply in self.replies)

    @property
    def is_over(self) -> bool:
        return self._reader.done()

    async def heartbeat(self) -> None:
        """Sends a heartbeat and waits for its answer."""
        count = len(self.replies)
        await self.call.write(attempt_pb.AttachRequest())
        await self.until(lambda: len(self.replies) > count or self.is_over)

    async def report(self, *, number: int | None = None, **body: Any) -> int:
        """Sends a report without waiting; returns its number."""
        self._number = number or self._number + 1
        await self.call.write(attempt_pb.AttachRequest(report=self._number, **body))
        return self._number

    async def started(self, total_steps: int = 100) -> None:
        """Reports the first step and waits for the acknowledgement."""
        await self.acked(await self.report(started=attempt_pb.Started(total_steps=total_steps)))

    async def log(self, text: str) -> int:
        return await self.report(log=job_event_pb2.LogLine(level=job_event_pb2.LOG_LEVEL_INFO, text=text))

    async def metrics(self, step: int, **values: float) -> int:
        return await self.report(metrics=job_event_pb2.MetricPoint(step=step, values=values))

    async def progress(self, step: int, **fields: Any) -> int:
        return await self.report(progress=training_job_pb2.JobProgress(step=step, **fields))

    async def acked(self, number: int) -> None:
        """Waits until a report is acknowledged."""
        await self.until(lambda: self.acknowledged >= number or self.is_over)
        assert self.acknowledged >= number, f"not acknowledged: {self.error}"

    async def until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        """Waits for a condition on what has been received."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._news.clear()
                if condition():
                    return
                await self._news.wait()

    async def ended(self) -> grpc.aio.AioRpcError | None:
        """Waits for the end of the stream; returns its error, if it has one."""
        await asyncio.wait_for(asyncio.shield(self._reader), 60)
        return self.error

    async def _read(self) -> None:
        try:
            async for reply in self.call:
                self.replies.append(reply)
                self._news.set()
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            asyncio.get_running_loop().call_soon(self._news.set)


async def lose_lease(dsn: str, attempt: Attempt) -> None:
    """Takes the attempt's job from its trainer, as a sweeper does when nothing was heard of it for a lease."""
    pool = await open_pool(dsn, "scheduler", max_size=1)
    try:
        await pool.execute("UPDATE jobs SET lease_expire_time = now() - interval '1 s' WHERE id = $1", attempt.job_id)
        taken = await ExpiryStore(pool, load_queries()).expire_one(dice=0.5)
        assert taken is not None
        assert taken.id == attempt.job_id
    finally:
        await pool.close()


async def put(url: str, content: bytes) -> int:
    """PUTs to a presigned URL; returns the status."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return (await client.put(url, content=content)).status_code


def bytes_of(part: artifact_pb2.FilePart, content: bytes) -> bytes:
    """Returns a part's bytes."""
    return content[part.offset_bytes : part.offset_bytes + part.size_bytes]


def file_of(path: str, data: bytes) -> artifact_pb2.ArtifactFile:
    """Returns what announces a file."""
    return artifact_pb2.ArtifactFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


async def failure_of(call: Awaitable[Any]) -> Failure:
    """Returns how a call fails, after checking that the failure is a proper one."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        failure = failure_from_rpc_error(error)
        assert not failure.reason.startswith("RPC_"), f"no ErrorInfo: {failure}"
        for leak in ("Traceback", "SELECT", "asyncpg", ".py", "eyJ"):
            assert leak not in failure.message
        return failure
    raise AssertionError(f"the call succeeded: {answer}")


async def all_of(stream: AsyncIterator[Any], timeout: float = 60) -> list[Any]:
    """Returns every message of a stream."""
    async with asyncio.timeout(timeout):
        return [message async for message in stream]
