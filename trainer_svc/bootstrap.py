"""Builds a trainer: opens in order, and has everything closed in reverse."""

from __future__ import annotations

import fcntl
import functools
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, Protocol

import grpc
from reeltune.trainer.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from reeltune.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server

from meshkit.auth.auth_client import AuthClient
from meshkit.auth.keys import JwksKeys
from meshkit.auth.revocations import Revocations
from meshkit.auth.token_kinds import USER_TOKEN
from meshkit.auth.tokens import TokenVerifier
from meshkit.jetstream import JetStream, connect
from meshkit.lifecycle import Runtime, Service
from meshkit.rpc.client import open_peer_channel
from meshkit.rpc.registration import ServicerRegistration
from trainer_svc import metrics
from trainer_svc.child.process import ChildProcess, memory_limit, spawn_child
from trainer_svc.child.reaping import reap_children
from trainer_svc.clients.catalog import CatalogClient
from trainer_svc.clients.jobs import JobsClient
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.clients.transfers import Transfers, open_http_client
from trainer_svc.clients.wakeups import Wakeups
from trainer_svc.domain.attempt import Recipe
from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.errors import DataFolderBusyError
from trainer_svc.domain.limits import AttemptLimits, InferenceLimits
from trainer_svc.domain.profile import PROFILES
from trainer_svc.qlora.launch import (
    after_training_command,
    child_environment,
    inference_command,
    probe_command,
    training_command,
    warm_command,
)
from trainer_svc.qlora.machine import machine_memory_bytes
from trainer_svc.rehearsal.launch import rehearsal_command
from trainer_svc.rpc.error_table import ERROR_TABLE
from trainer_svc.rpc.inference_servicer import InferenceServicer
from trainer_svc.rpc.peers import PEERS
from trainer_svc.rpc.trainer_servicer import TrainerServicer
from trainer_svc.settings import TrainerSettings
from trainer_svc.usecases.answer_question import InferenceTools, stop_when_idle
from trainer_svc.usecases.claim_jobs import ClaimTools, claim_jobs
from trainer_svc.usecases.content_cache import ContentCache
from trainer_svc.usecases.inference_host import InferenceHost
from trainer_svc.usecases.live_attempt import LiveAttempt, LiveAttempts
from trainer_svc.usecases.meter_device import meter_device
from trainer_svc.usecases.probe_device import DeviceProbe
from trainer_svc.usecases.register_worker import WorkerIdentity, WorkerRegistration
from trainer_svc.usecases.run_attempt import AttemptTools, run_attempt
from trainer_svc.usecases.take_turns import Turns
from trainer_svc.usecases.train_in_child import LaunchTraining, Meter
from trainer_svc.usecases.training_first import TrainingFirst
from trainer_svc.usecases.warm_child import WarmChild
from trainer_svc.usecases.watch_attempt import WatchTools

_WATCH = "/reeltune.trainer.v1.TrainerService/WatchProgress"


TrainingCommand = Callable[[Path, int], Sequence[str]]
"""Command line of the training child for a job folder and a message descriptor."""


class InferenceCommand(Protocol):
    """Command line of the inference child for a model folder, a message descriptor and the fields of
    `QuantizationSpec`, with how many adapters and bytes of them it may hold."""

    def __call__(
        self,
        model: Path,
        message_fd: int,
        quantization: Mapping[str, Any],
        /,
        *,
        max_adapters: int,
        max_adapter_bytes: int,
    ) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class ChildCommands:
    """How children are started: the programs of the recipes, unless a test brings its own. Without `warm`, none is kept
    from one job to the next."""

    probe: Callable[[], Sequence[str]] = probe_command
    training: TrainingCommand = training_command
    rehearsal: TrainingCommand = rehearsal_command
    after_training: TrainingCommand = after_training_command
    inference: InferenceCommand = inference_command
    warm: Callable[[int], Sequence[str]] | None = None


async def bootstrap(settings: TrainerSettings, runtime: Runtime, commands: ChildCommands | None = None) -> Service:
    """Opens everything and starts the background tasks; waits for no other service.

    Raises:
        DataFolderBusyError: another trainer uses the data folder.
    """
    commands = commands or ChildCommands(warm=warm_command)
    settings = _as_profiled(settings)
    folders = _open_folders(settings.data_dir, runtime.stack)
    channels = _open_channels(settings, runtime.stack)
    http = open_http_client(settings.tls_ca)
    runtime.stack.push_async_callback(http.aclose)
    transfers = Transfers(http)
    cache = ContentCache(folders.cache, transfers, budget_bytes=settings.cache_bytes)
    scheduler, jobs = SchedulerClient(channels.scheduler), JobsClient(channels.scheduler)
    live, probe = LiveAttempts(), DeviceProbe()
    registration = WorkerRegistration(scheduler, _identity(settings, folders))
    warm = _warm_child(settings, folders, commands, runtime)
    inference = _inference_tools(settings, folders, commands, cache, jobs, channels.catalog, probe, live, warm)
    runtime.stack.push_async_callback(inference.host.stop)
    limits = _attempt_limits(settings)
    attempt_tools = AttemptTools(
        scheduler=scheduler,
        catalog=CatalogClient.for_attempt(channels.catalog),
        transfers=transfers,
        cache=cache,
        launch=_launchers(settings, commands),
        jobs_folder=folders.jobs,
        limits=limits,
        threads=settings.threads,
        warm=warm,
        encoder_cache_bytes=settings.encoder_cache_bytes,
        meter=_meter(settings, probe),
    )
    claiming = ClaimTools(
        scheduler=scheduler,
        registration=registration,
        wakeups=Wakeups(_connect_queue(settings, runtime.stack)),
        live=live,
        run=lambda attempt: run_attempt(attempt, attempt_tools),
        before_training=inference.training_first.make_room,
        limits=limits,
        poll_seconds=settings.poll_seconds,
    )
    runtime.metrics.register(metrics.REGISTRY)
    metrics.show_questions(runtime.metrics, lambda: inference.turns.waiting, lambda: inference.turns.is_taken)
    _start_background(settings, runtime, commands, probe, registration, claiming, inference)
    auth = AuthClient(channels.auth)
    revocations = Revocations(auth.fetch_revocations, poll_seconds=settings.revocation_poll_seconds)
    runtime.background.start("revocations", revocations.follow())
    return Service(
        registrations=_registrations(
            TrainerServicer(probe, registration, live, WatchTools(jobs, live)),
            InferenceServicer(inference, runtime.background.stopping),
        ),
        error_table=ERROR_TABLE,
        verifier=TokenVerifier([USER_TOKEN.trusted(JwksKeys(auth.fetch_jwks))]),
        long_rpcs=frozenset({_WATCH}),
        revocations=revocations,
        peers=PEERS,
    )


def _registrations(trainer: TrainerServicer, inference: InferenceServicer) -> list[ServicerRegistration]:
    return [
        ServicerRegistration(add_TrainerServiceServicer_to_server, trainer),
        ServicerRegistration(add_InferenceServiceServicer_to_server, inference),
    ]


@dataclass(frozen=True, slots=True)
class _Folders:
    root: Path
    cache: Path
    jobs: Path
    inference: Path
    clips: Path
    warm: Path


def _open_folders(root: Path, stack: AsyncExitStack) -> _Folders:
    """Takes the data folder for this process and clears what a killed trainer left in it."""
    root = root.resolve()
    folders = _Folders(root, root / "cache", root / "jobs", root / "inference", root / "clips", root / "warm")
    for folder in (root, folders.cache, folders.jobs, folders.inference):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = stack.enter_context((root / "lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataFolderBusyError(f"another trainer uses {root}; give each its own TRAINER_DATA_DIR") from error
    reap_children(folders.jobs)
    reap_children(folders.inference)
    reap_children(folders.warm)
    for unfinished in (folders.clips, *folders.cache.rglob(".*.building")):
        shutil.rmtree(unfinished, ignore_errors=True)
    for unfinished in folders.cache.rglob(".*.part"):
        unfinished.unlink(missing_ok=True)
    folders.clips.mkdir()
    return folders


@dataclass(frozen=True, slots=True)
class _Channels:
    scheduler: grpc.aio.Channel
    catalog: grpc.aio.Channel
    auth: grpc.aio.Channel


def _open_channels(settings: TrainerSettings, stack: AsyncExitStack) -> _Channels:
    beat = settings.heartbeat_seconds
    channels = _Channels(
        # A lease outlasts several heartbeats: a replica that is silent for two of them is given up for another one,
        # early enough to be there within the lease.
        scheduler=open_peer_channel(
            settings,
            settings.scheduler_target,
            max_reconnect_backoff_seconds=min(5.0, beat),
            keepalive_seconds=beat,
            keepalive_timeout_seconds=beat,
        ),
        catalog=open_peer_channel(settings, settings.catalog_target),
        auth=open_peer_channel(settings, settings.auth_target),
    )
    for channel in (channels.scheduler, channels.catalog, channels.auth):
        stack.push_async_callback(channel.close)
    return channels


def _connect_queue(settings: TrainerSettings, stack: AsyncExitStack) -> JetStream | None:
    if not settings.nats_url:
        return None
    password = settings.nats_password.get_secret_value()
    jetstream = connect(settings.nats_url, user=settings.nats_user, password=password, name=f"trainer {settings.name}")
    stack.push_async_callback(jetstream.close)
    return jetstream


def _identity(settings: TrainerSettings, folders: _Folders) -> WorkerIdentity:
    try:
        software = version("reeltune")
    except PackageNotFoundError:  # run from a source tree
        software = "unknown"
    return WorkerIdentity(
        name=settings.name,
        join_secret=settings.join_secret.get_secret_value(),
        version=software,
        recipes=settings.offered_recipes,
        id_file=folders.root / "worker.json",
    )


def _attempt_limits(settings: TrainerSettings) -> AttemptLimits:
    return AttemptLimits(
        heartbeat=settings.heartbeat_seconds,
        silence=max(3.0, 3 * settings.heartbeat_seconds),
        loading=settings.loading_stall_seconds,
        progress=settings.stall_seconds,
        stop_grace=settings.stop_grace_seconds,
        # Of the scheduler's 30 s, where the training process gets its usual 20.
        stop_total=settings.stop_grace_seconds * 1.3,
        drain_grace=settings.drain_grace_seconds,
        drain_publish=settings.drain_grace_seconds + 3.0,
        drain_total=settings.drain_grace_seconds + 5.0,
    )


def _inference_tools(
    settings: TrainerSettings,
    folders: _Folders,
    commands: ChildCommands,
    cache: ContentCache,
    jobs: JobsClient,
    catalog: grpc.aio.Channel,
    probe: DeviceProbe,
    live: LiveAttempts,
    warm: WarmChild,
) -> InferenceTools:
    limits = InferenceLimits(
        waiting=settings.inference_waiting,
        idle=settings.inference_idle_seconds,
        adapters=settings.inference_adapters,
    )

    async def launch(folder: Path, quantization: Mapping[str, Any]) -> ChildProcess:
        # A model for questions and one that waits for a job would share the memory.
        await warm.drop()
        return await _launch_inference(settings, commands.inference, folder, quantization)

    host, turns = InferenceHost(launch, cache, folders.inference, limits), Turns(limits.waiting)
    return InferenceTools(
        jobs=jobs,
        catalog=CatalogClient.for_user(catalog),
        cache=cache,
        host=host,
        turns=turns,
        probe=probe,
        training_first=TrainingFirst(host, turns, live, probe, settings.inference_during_training),
        clips_folder=folders.clips,
        limits=limits,
    )


def _start_background(
    settings: TrainerSettings,
    runtime: Runtime,
    commands: ChildCommands,
    probe: DeviceProbe,
    registration: WorkerRegistration,
    claiming: ClaimTools,
    inference: InferenceTools,
) -> None:
    environment = _environment(settings)

    async def listen() -> None:
        await claiming.wakeups.run((await probe.result()).device_class)

    async def register() -> None:
        await registration.keep(await probe.result())

    start = runtime.background.start
    if Recipe.QLORA in settings.recipes:
        probing = probe.run(
            commands.probe(),
            environment,
            _host(),
            devices=settings.devices,
            profile=PROFILES.get(settings.profile),
        )
        start("probe", probing, may_finish=True)
    else:
        probe.skip(_host())
    start("registration", register())
    start("wakeups", listen())
    start("claims", claim_jobs(claiming), is_intake=True)
    start("inference", stop_when_idle(inference))
    start("inference-memory", inference.training_first.watch())


def _warm_child(settings: TrainerSettings, folders: _Folders, commands: ChildCommands, runtime: Runtime) -> WarmChild:
    command = commands.warm

    async def spawn(folder: Path) -> ChildProcess:
        assert command is not None
        metrics.CHILDREN.labels("warm").inc()
        return await spawn_child(command, folder=folder, environment=_environment(settings))

    warm = WarmChild(spawn, folders.warm, settings.warm_idle_seconds if command is not None else 0.0)
    runtime.stack.push_async_callback(warm.drop)
    if warm.keeps_any:
        runtime.background.start("warm-child", warm.drop_when_idle())
    return warm


def _launchers(settings: TrainerSettings, commands: ChildCommands) -> dict[Recipe, LaunchTraining]:
    """How the training child is started, for each recipe that this trainer offers."""
    programs = {
        Recipe.QLORA: commands.training,
        Recipe.REHEARSAL: commands.rehearsal,
        Recipe.EVALUATION: commands.after_training,
        Recipe.MERGE: commands.after_training,
    }
    return {
        recipe: functools.partial(_launch_training, settings, programs[recipe]) for recipe in settings.offered_recipes
    }


async def _launch_training(settings: TrainerSettings, command: TrainingCommand, job: Path) -> ChildProcess:
    metrics.CHILDREN.labels("training").inc()
    return await spawn_child(lambda fd: command(job, fd), folder=job, environment=_environment(settings))


async def _launch_inference(
    settings: TrainerSettings, command: InferenceCommand, folder: Path, quantization: Mapping[str, Any]
) -> ChildProcess:
    metrics.CHILDREN.labels("inference").inc()
    room = {"max_adapters": settings.inference_adapters, "max_adapter_bytes": settings.inference_adapter_bytes}
    return await spawn_child(
        lambda fd: command(folder / "model", fd, quantization, **room),
        folder=folder,
        environment=_environment(settings),
    )


def _environment(settings: TrainerSettings) -> dict[str, str]:
    """What children see: an allow-list, so no credential of this process is among it."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if settings.device == "cpu" else {}
    environment = child_environment(settings.threads, base={**os.environ, **hidden})
    profile = PROFILES.get(settings.profile)
    return environment if profile is None else {**environment, **memory_limit(profile.memory_bytes)}


def _as_profiled(settings: TrainerSettings) -> TrainerSettings:
    """The settings that a profile brings with it, where the operator has not set others."""
    profile = PROFILES.get(settings.profile)
    if profile is None:
        return settings
    return settings.model_copy(update={"device": "cpu", "threads": settings.threads or profile.threads})


def _meter(settings: TrainerSettings, probe: DeviceProbe) -> Meter | None:
    if not settings.meter_seconds:
        return None

    async def meter(attempt: LiveAttempt, pid: int) -> NoReturn:
        await meter_device(attempt, pid, await probe.result(), settings.meter_seconds)

    return meter


def _host() -> Device:
    """The machine as it is known without a probe."""
    return Device(DeviceClass.CPU, platform.processor() or platform.machine(), machine_memory_bytes(), False)
