"""The services around a trainer, small and real: gRPC servers that speak the contracts, and an HTTP file store."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc
from reeltune.auth.v1 import auth_service_pb2, auth_service_pb2_grpc, session_pb2
from reeltune.catalog.v1 import dataset_pb2, sample_pb2, snapshot_service_pb2, snapshot_service_pb2_grpc
from reeltune.scheduler.v1 import (
    artifact_pb2,
    attempt_service_pb2,
    attempt_service_pb2_grpc,
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    training_history_pb2,
    training_job_pb2,
    training_parameters_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)

from meshkit.auth.keys import StaticKeys
from meshkit.auth.principal import Caller, Principal, current_principal
from meshkit.auth.tokens import (
    TokenRejected,
    TokenSigner,
    TokenVerifier,
    TrustedIssuer,
    generate_private_key,
    public_jwk,
    public_pem,
)
from meshkit.rpc.client import bearer
from meshkit.rpc.failure import Failure
from meshkit.testing import TokenMint

JOB = "job_01J00000000000000000000001"
MODEL = "mdl_01J00000000000000000000001"
DATASET = "ds_01J00000000000000000000001"
WORKER = "wrk_01J00000000000000000000001"
OWNER = "usr_01J00000000000000000000001"
JOIN_SECRET = "the join secret of these tests"


class FileStore:
    """GET and PUT of files by path, with faults on order. URLs need `?signature=good`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[tuple[str, int | str]] = []
        """(method, fault): an HTTP status, `truncate` or `corrupt`, each used up by one request."""
        self.requests: list[tuple[str, str]] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{path}?signature=good"

    def artifact_file(self, path: str, content: bytes, key: str) -> artifact_pb2.ArtifactFile:
        self.files[key] = content
        digest = hashlib.sha256(content).hexdigest()
        return artifact_pb2.ArtifactFile(path=path, size_bytes=len(content), sha256=digest, url=self.url(key))

    def checkpoint(self, step: int, attempt: int = 1) -> attempt_service_pb2.Checkpoint:
        """A whole checkpoint as `fake_child` writes it."""
        state = f"step {step}".encode()
        entry = {"path": "state.json", "size": len(state), "sha256": hashlib.sha256(state).hexdigest()}
        contents = {"state.json": state, "manifest.json": json.dumps({"files": [entry]}).encode()}
        files = [self.artifact_file(path, data, f"old/{attempt}/{step}/{path}") for path, data in contents.items()]
        return attempt_service_pb2.Checkpoint(step=step, attempt=attempt, files=files)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _fault(self, method: str) -> int | str | None:
        for index, (faulty, fault) in enumerate(self.faults):
            if faulty == method:
                del self.faults[index]
                return fault
        return None

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, _, query = self.path[1:].partition("?")
                store.requests.append(("GET", path))
                fault = store._fault("GET")
                if isinstance(fault, int) or query != "signature=good" or path not in store.files:
                    status = fault if isinstance(fault, int) else 404 if query == "signature=good" else 403
                    return self._answer(status, b"")
                content = store.files[path]
                if fault == "corrupt":
                    content = bytes(byte ^ 1 for byte in content)
                self._answer(200, content[: len(content) // 2] if fault == "truncate" else content, len(content))
                return None

            def do_PUT(self) -> None:
                path, _, query = self.path[1:].partition("?")
                content = self.rfile.read(int(self.headers["Content-Length"]))
                store.requests.append(("PUT", path))
                fault = store._fault("PUT")
                if isinstance(fault, int) or query != "signature=good":
                    return self._answer(fault if isinstance(fault, int) else 403, b"")
                store.files[path] = content
                return self._answer(200, b"")

            def _answer(self, status: int, content: bytes, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content) if length is None else length))
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = length is not None and length != len(content)

            def log_message(self, *arguments: object) -> None:
                """Tests need no access log."""

        return Handler


def fenced() -> Failure:
    return Failure(grpc.StatusCode.ABORTED, "ATTEMPT_FENCED", "the job has another attempt")


@dataclass
class Scheduler(attempt_service_pb2_grpc.AttemptServiceServicer, checkpoint_service_pb2_grpc.CheckpointServiceServicer):
    """Hands out one job after the other and records what attempts say; refuses what its contract refuses."""

    mint: TokenMint
    store: FileStore
    waiting: list[training_job_pb2.TrainingJob] = field(default_factory=list)
    checkpoints: list[attempt_service_pb2.Checkpoint] = field(default_factory=list)
    """What earlier attempts left of the job, the newest first."""
    part_bytes: int = 1 << 30
    """Larger files are PUT in parts."""
    is_fenced: bool = False
    orders: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: every attached attempt gets `order`."""
    order: attempt_service_pb2.Order.ValueType = attempt_service_pb2.ORDER_STOP
    is_away: bool = False
    missed: int = 0
    """Calls that came while it was away."""
    refused_checkpoints: int = 0
    """So many commits of checkpoints fail as if the object store were away."""
    breaks: list[int] = field(default_factory=list)
    """Each number breaks a stream after so many reports, the last of which is recorded and not acknowledged."""
    registrations: list[attempt_service_pb2.RegisterWorkerRequest] = field(default_factory=list)
    received: dict[str, dict[int, attempt_service_pb2.AttachRequest]] = field(default_factory=dict)
    repeated: int = 0
    heartbeats: int = 0
    attached: int = 0
    claims: int = 0
    completed: list[attempt_service_pb2.CompleteAttemptRequest] = field(default_factory=list)
    failed: list[attempt_service_pb2.FailAttemptRequest] = field(default_factory=list)
    committed: list[attempt_service_pb2.Checkpoint] = field(default_factory=list)

    def reports(self, job_id: str = JOB) -> list[attempt_service_pb2.AttachRequest]:
        """What was recorded, by number."""
        recorded = self.received.get(job_id, {})
        assert sorted(recorded) == list(range(1, len(recorded) + 1)), "report numbers have a gap"
        return [recorded[number] for number in sorted(recorded)]

    async def RegisterWorker(self, request, context):
        self._check_away()
        if request.join_secret != JOIN_SECRET:
            raise Failure(grpc.StatusCode.UNAUTHENTICATED, "JOIN_SECRET_INVALID", "wrong join secret")
        self.registrations.append(request)
        response = attempt_service_pb2.RegisterWorkerResponse(
            worker_id=request.worker_id or WORKER, worker_token=self.mint.token(Caller.WORKER, WORKER)
        )
        response.token_expire_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
        return response

    async def ClaimJob(self, request, context):
        self._check_away()
        self.claims += 1
        if not self.waiting:
            return attempt_service_pb2.ClaimJobResponse()
        job = self.waiting.pop(0)
        job.attempt += 1
        claim = attempt_service_pb2.Claim(job=job, grant=self.mint.token(Caller.ATTEMPT, job.id))
        if self.checkpoints:
            claim.checkpoint.CopyFrom(self.checkpoints[0])
        return attempt_service_pb2.ClaimJobResponse(claim=claim)

    async def Attach(self, request_iterator, context) -> AsyncIterator[attempt_service_pb2.AttachResponse]:
        self._check_away()
        self._check_fenced()
        self.attached += 1
        recorded = self.received.setdefault(current_principal().subject, {})
        answers: asyncio.Queue[attempt_service_pb2.AttachResponse | Exception] = asyncio.Queue()
        # It acknowledges nothing yet: what was recorded before the break comes again.
        answers.put_nowait(attempt_service_pb2.AttachResponse())
        reading = asyncio.create_task(self._read(request_iterator, recorded, answers))
        ordering = asyncio.create_task(self._order(recorded, answers))
        try:
            while True:
                answer = await answers.get()
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            reading.cancel()
            ordering.cancel()

    async def _read(self, requests, recorded, answers) -> None:
        breaks_after = self.breaks.pop(0) if self.breaks else 0
        async for request in requests:
            if self.is_fenced:
                return answers.put_nowait(fenced())
            if request.report:
                self.repeated += request.report in recorded
                assert recorded.setdefault(request.report, request) == request, "a report changed when sent again"
                breaks_after -= 1
                if breaks_after == 0:
                    return answers.put_nowait(Failure(grpc.StatusCode.UNAVAILABLE, "BROKEN", "the test broke it"))
            else:
                self.heartbeats += 1
            answers.put_nowait(self._answer(recorded))
        return None

    async def _order(self, recorded, answers) -> None:
        await self.orders.wait()
        answers.put_nowait(self._answer(recorded))

    def _answer(self, recorded) -> attempt_service_pb2.AttachResponse:
        order = self.order if self.orders.is_set() else attempt_service_pb2.ORDER_UNSPECIFIED
        return attempt_service_pb2.AttachResponse(acknowledged_report=max(recorded, default=0), order=order)

    async def PrepareFiles(self, request, context):
        self._check_away()
        self._check_fenced()
        prefix = self._prefix(request.checkpoint_step if request.HasField("checkpoint_step") else None)
        return attempt_service_pb2.PrepareFilesResponse(files=[self._prepared(file, prefix) for file in request.files])

    def _prepared(self, file, prefix: str) -> artifact_pb2.ArtifactFile:
        """As the scheduler does: parts that have arrived are not named again, and once all have, the file is there."""
        prepared = artifact_pb2.ArtifactFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
        name = prefix + file.path
        if file.size_bytes <= self.part_bytes:
            prepared.url = self.store.url(name)
            return prepared
        offsets = range(0, file.size_bytes, self.part_bytes)
        for number, offset in enumerate(offsets, start=1):
            size = min(self.part_bytes, file.size_bytes - offset)
            if len(self.store.files.get(f"{name}.part{number}", b"")) != size:
                url = self.store.url(f"{name}.part{number}")
                prepared.parts.add(number=number, offset_bytes=offset, size_bytes=size, url=url)
        if not prepared.parts:
            self.store.files[name] = b"".join(
                self.store.files[f"{name}.part{number + 1}"] for number in range(len(offsets))
            )
        return prepared

    async def FindCheckpoint(self, request, context):
        self._check_away()
        self._check_fenced()
        name = (request.older_than.attempt, request.older_than.step)
        older = [each for each in self.checkpoints if (each.attempt, each.step) < name]
        return checkpoint_service_pb2.FindCheckpointResponse(checkpoint=older[0] if older else None)

    async def CommitCheckpoint(self, request, context):
        self._check_fenced()
        if self.refused_checkpoints:
            self.refused_checkpoints -= 1
            raise Failure(grpc.StatusCode.UNAVAILABLE, "BLOB_UNAVAILABLE", "the object store is away")
        self._check_files(request.checkpoint.files, self._prefix(request.checkpoint.step))
        # As the scheduler does: a commit whose answer was lost may be repeated.
        if all(known.step != request.checkpoint.step for known in self.committed):
            self.committed.append(request.checkpoint)
        return attempt_service_pb2.CommitCheckpointResponse()

    async def CompleteAttempt(self, request, context):
        self._check_away()
        self._check_fenced()
        self._check_files(request.files, self._prefix(None))
        if not request.files and not self.orders.is_set():
            raise Failure(grpc.StatusCode.FAILED_PRECONDITION, "FILES_INCOMPLETE", "no files and no stop")
        self.completed.append(request)
        state = training_job_pb2.JOB_STATE_STOPPED if self.orders.is_set() else training_job_pb2.JOB_STATE_COMPLETED
        return attempt_service_pb2.CompleteAttemptResponse(state=state)

    async def FailAttempt(self, request, context):
        self._check_away()
        self._check_fenced()
        self.failed.append(request)
        return attempt_service_pb2.FailAttemptResponse(state=training_job_pb2.JOB_STATE_FAILED)

    def _check_away(self) -> None:
        if self.is_away:
            self.missed += 1
            raise Failure(grpc.StatusCode.UNAVAILABLE, "POSTGRES_UNAVAILABLE", "the database is away")

    def _check_fenced(self) -> None:
        if self.is_fenced:
            raise fenced()

    def _prefix(self, step: int | None) -> str:
        job_id = current_principal().subject
        return f"jobs/{job_id}/" if step is None else f"jobs/{job_id}/checkpoints/{step}/"

    def _check_files(self, files, prefix: str) -> None:
        for file in files:
            content = self.store.files.get(prefix + file.path, b"")
            if hashlib.sha256(content).hexdigest() != file.sha256 or len(content) != file.size_bytes:
                raise Failure(grpc.StatusCode.FAILED_PRECONDITION, "FILES_INCOMPLETE", f"{file.path} differs")


@dataclass
class Auth(auth_service_pb2_grpc.AuthServiceServicer):
    """Publishes one key, and signs users' tokens with it."""

    private_key: bytes = field(default_factory=generate_private_key)

    async def GetJwks(self, request, context):
        key = session_pb2.JsonWebKey(**public_jwk(self.private_key, "auth-1"))
        return auth_service_pb2.GetJwksResponse(keys=[key])

    def user(self, user_id: str = OWNER, *, audience: str = "reeltune") -> tuple[tuple[str, str], ...]:
        """Call metadata of a signed-in user."""
        signer = TokenSigner(self.private_key, kid="auth-1", issuer="reeltune-auth", audience=audience, typ="at+jwt")
        return bearer(signer.sign(user_id, timedelta(minutes=5), {"roles": ["user"]}))


class ForwardingVerifier:
    """Accepts what the auth service signed for users, and what the mint signed for machines."""

    def __init__(self, auth: Auth, mint: TokenMint) -> None:
        keys = StaticKeys({"auth-1": public_pem(auth.private_key)})
        self._users = TokenVerifier([TrustedIssuer("reeltune-auth", "reeltune", "at+jwt", Caller.USER, keys)])
        self._machines = mint.verifier

    async def verify(self, token: str) -> Principal:
        try:
            return await self._users.verify(token)
        except TokenRejected:
            return await self._machines.verify(token)


@dataclass
class Jobs(training_service_pb2_grpc.TrainingServiceServicer):
    """Shows one user's jobs."""

    jobs: dict[str, training_job_pb2.TrainingJob] = field(default_factory=dict)
    artifacts: dict[str, artifact_pb2.Artifact] = field(default_factory=dict)
    passing: list[artifact_pb2.Artifact] = field(default_factory=list)
    """Told first, each once."""

    async def GetTrainingJob(self, request, context):
        job = self.jobs.get(request.job_id)
        if job is None or job.owner_id != current_principal().subject:
            raise Failure(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", f"no job {request.job_id}")
        return training_service_pb2.GetTrainingJobResponse(job=job)

    async def GetArtifact(self, request, context):
        if self.passing:
            return training_history_pb2.GetArtifactResponse(artifact=self.passing.pop(0))
        if request.job_id not in self.artifacts:
            raise Failure(grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND", "no artifact")
        return training_history_pb2.GetArtifactResponse(artifact=self.artifacts[request.job_id])


@dataclass
class Catalog(snapshot_service_pb2_grpc.SnapshotServiceServicer):
    """One model and one dataset, whose clips may come with an expired URL the first time."""

    store: FileStore
    model: dict[str, bytes] = field(default_factory=dict)
    clips: dict[str, bytes] = field(default_factory=dict)
    samples: list[sample_pb2.Sample] = field(default_factory=list)
    has_expired_urls: bool = False
    is_cut: bool = False
    left_out: set[str] = field(default_factory=set)
    """Clips that `GetClips` says nothing of."""

    def clip(self, path: str, *, is_expired: bool = False) -> sample_pb2.Clip:
        file = self.store.artifact_file(path, self.clips[path], f"clips/{path}")
        url = file.url.replace("good", "expired") if is_expired else file.url
        return sample_pb2.Clip(path=path, sha256=file.sha256, size_bytes=file.size_bytes, url=url)

    async def StreamDatasetSnapshot(self, request, context):
        piece = snapshot_service_pb2.StreamDatasetSnapshotResponse
        yield piece(dataset=dataset_pb2.Dataset(id=request.dataset_id))
        clips = [self.clip(path, is_expired=self.has_expired_urls) for path in self.clips]
        yield piece(clips=snapshot_service_pb2.ClipBatch(clips=clips))
        yield piece(samples=snapshot_service_pb2.SampleBatch(samples=self.samples))
        if not self.is_cut:
            yield piece(end=snapshot_service_pb2.SnapshotEnd(clips=len(clips), samples=len(self.samples)))

    async def GetClips(self, request, context):
        for path in request.paths:
            if path not in self.clips:
                raise Failure(grpc.StatusCode.NOT_FOUND, "CLIP_NOT_FOUND", f"no clip {path}")
        shown = [path for path in request.paths if path not in self.left_out]
        return snapshot_service_pb2.GetClipsResponse(clips=[self.clip(path) for path in shown])

    async def GetModelSnapshot(self, request, context):
        if request.model_id != MODEL:
            raise Failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", f"no model {request.model_id}")
        files = [self.store.artifact_file(path, content, f"model/{path}") for path, content in self.model.items()]
        return snapshot_service_pb2.GetModelSnapshotResponse(
            files=[
                snapshot_service_pb2.ModelFile(
                    path=file.path, size_bytes=file.size_bytes, sha256=file.sha256, url=file.url
                )
                for file in files
            ]
        )


def sample(sample_id: str, clip: str, question: str, answer: str, split: str = "train") -> sample_pb2.Sample:
    """One question about one clip, with its answer."""
    part = sample_pb2.ContentPart
    return sample_pb2.Sample(
        sample_id=sample_id,
        split=split,
        messages=[
            sample_pb2.Message(role="user", content=[part(video=sample_pb2.VideoPart(path=clip)), part(text=question)]),
            sample_pb2.Message(role="assistant", content=[part(text=answer)]),
        ],
    )


def job(**parameters: object) -> training_job_pb2.TrainingJob:
    """A job that waits; `parameters` are sections of the training parameters."""
    return training_job_pb2.TrainingJob(
        id=JOB,
        owner_id=OWNER,
        model_id=MODEL,
        dataset_id=DATASET,
        parameters=training_parameters_pb2.TrainingParameters(**parameters),
    )
