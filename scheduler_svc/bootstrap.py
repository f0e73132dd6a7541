"""Builds the service: opens what it needs, in order, and wires it up."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from reeltune.scheduler.v1.attempt_service_pb2_grpc import add_AttemptServiceServicer_to_server
from reeltune.scheduler.v1.checkpoint_service_pb2_grpc import add_CheckpointServiceServicer_to_server
from reeltune.scheduler.v1.estimate_service_pb2_grpc import add_EstimateServiceServicer_to_server
from reeltune.scheduler.v1.post_training_service_pb2_grpc import add_PostTrainingServiceServicer_to_server
from reeltune.scheduler.v1.preset_service_pb2_grpc import add_PresetServiceServicer_to_server
from reeltune.scheduler.v1.quota_service_pb2_grpc import add_QuotaServiceServicer_to_server
from reeltune.scheduler.v1.source_service_pb2_grpc import add_SourceServiceServicer_to_server
from reeltune.scheduler.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server
from reeltune.scheduler.v1.use_service_pb2_grpc import add_UseServiceServicer_to_server
from reeltune.scheduler.v1.worker_service_pb2_grpc import add_WorkerServiceServicer_to_server

from meshkit.auth.auth_client import AuthClient
from meshkit.auth.keys import JwksKeys, StaticKeys
from meshkit.auth.revocations import Revocations
from meshkit.auth.token_kinds import ATTEMPT_GRANT, USER_TOKEN, WORKER_TOKEN
from meshkit.auth.tokens import TokenVerifier
from meshkit.blob import BlobStore
from meshkit.blob.failures import BLOB_FAILURES
from meshkit.jetstream import connect
from meshkit.lifecycle import Runtime, Service
from meshkit.postgres import Pool, migrate, open_pool
from meshkit.postgres.failures import POSTGRES_FAILURES
from meshkit.postgres.pool_gauges import show_pool
from meshkit.rpc.client import open_peer_channel
from meshkit.rpc.paging import PageTokens
from meshkit.rpc.registration import ServicerRegistration
from meshkit.telemetry.census import Census
from scheduler_svc import metrics
from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.clients.catalog import Catalog
from scheduler_svc.clients.wake_ups import WakeUps
from scheduler_svc.rpc.attempt_servicer import AttemptParts, AttemptServicer
from scheduler_svc.rpc.checkpoint_servicer import CheckpointServicer
from scheduler_svc.rpc.convert import watch_message_to_proto
from scheduler_svc.rpc.error_table import ERROR_TABLE
from scheduler_svc.rpc.estimate_servicer import EstimateServicer
from scheduler_svc.rpc.peers import PEERS
from scheduler_svc.rpc.post_training_servicer import PostTrainingServicer, SourceServicer
from scheduler_svc.rpc.preset_servicer import PresetServicer
from scheduler_svc.rpc.quota_servicer import QuotaServicer
from scheduler_svc.rpc.training_servicer import TrainingParts, TrainingServicer
from scheduler_svc.rpc.use_servicer import UseServicer
from scheduler_svc.rpc.worker_servicer import WorkerServicer
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.signing_keys import SigningKey, load_signing_keys
from scheduler_svc.store import MIGRATIONS, SCHEMA, load_queries
from scheduler_svc.store.attempt_store import AttemptStore
from scheduler_svc.store.census_store import CensusStore
from scheduler_svc.store.event_store import EventStore
from scheduler_svc.store.expiry_store import ExpiryStore
from scheduler_svc.store.garbage_store import GarbageStore
from scheduler_svc.store.job_store import JobStore
from scheduler_svc.store.metric_store import MetricStore
from scheduler_svc.store.notifications import Notifications
from scheduler_svc.store.outbox_store import OutboxStore
from scheduler_svc.store.queue_store import QueueStore
from scheduler_svc.store.quota_store import QuotaStore
from scheduler_svc.store.request_store import RequestStore
from scheduler_svc.store.upload_store import UploadStore
from scheduler_svc.store.worker_store import WorkerStore
from scheduler_svc.usecases.check_fit import FitCheck
from scheduler_svc.usecases.collect_garbage import GarbageCollector
from scheduler_svc.usecases.issue_tokens import (
    TokenIssuer,
)
from scheduler_svc.usecases.job_feed import JobFeeds, WatchLimits
from scheduler_svc.usecases.relay_outbox import OutboxRelay
from scheduler_svc.usecases.submit_post_training import PostTrainingStores
from scheduler_svc.usecases.sweep_leases import Sweeper
from scheduler_svc.usecases.view_queue import QueueView, tell_queue

LONG_RPCS = frozenset(
    {
        "/reeltune.scheduler.v1.TrainingService/WatchTrainingJob",
        "/reeltune.scheduler.v1.TrainingService/DownloadArtifact",
        "/reeltune.scheduler.v1.AttemptService/Attach",
    }
)


class _Stores:
    """Every store over one pool."""

    def __init__(self, pool: Pool, lease: timedelta) -> None:
        queries = load_queries()
        self.jobs = JobStore(pool, queries)
        self.requests = RequestStore(pool, queries)
        self.events = EventStore(pool, queries)
        self.metrics = MetricStore(pool, queries)
        self.attempts = AttemptStore(pool, queries, lease)
        self.uploads = UploadStore(pool, queries)
        self.workers = WorkerStore(pool, queries, lease)
        self.queue = QueueStore(pool, queries, lease)
        self.quotas = QuotaStore(pool, queries)
        self.expiry = ExpiryStore(pool, queries)
        self.outbox = OutboxStore(pool, queries)
        self.garbage = GarbageStore(pool, queries)
        self.census = CensusStore(pool, queries, lease)


async def bootstrap(settings: SchedulerSettings, runtime: Runtime) -> Service:
    """Opens keys, database, object store and channels, starts the background work and returns the service.

    NATS and the other services may come later: nothing here waits for them.
    """
    keys = load_signing_keys(settings.keys_dir)
    lease = timedelta(seconds=settings.lease_seconds)
    stores = _Stores(await _open_database(settings, runtime), lease)
    files = AttemptFiles(await _open_blob_store(settings, runtime), part_bytes=settings.part_bytes)
    notifications = Notifications(settings.postgres_dsn.get_secret_value())
    page_tokens = PageTokens(settings.page_token_secret.get_secret_value().encode())
    feeds = JobFeeds(stores.jobs, stores.events, notifications, watch_message_to_proto, _watch_limits(settings))
    catalog = await _open_catalog(settings, runtime)
    training = TrainingParts(
        jobs=stores.jobs,
        requests=stores.requests,
        events=stores.events,
        metrics=stores.metrics,
        workers=stores.workers,
        queue=QueueView(stores.queue),
        catalog=catalog,
        fit=FitCheck(stores.workers, catalog.shapes),
        files=files,
        feeds=feeds,
        page_tokens=page_tokens,
        stop_grace=timedelta(seconds=settings.stop_grace_seconds),
        watch_heartbeat_seconds=settings.watch_heartbeat_seconds,
    )
    attempt = _attempt_parts(settings, stores, files, notifications, keys)
    _start_background(settings, runtime, stores, training, attempt)
    auth = AuthClient(await runtime.stack.enter_async_context(open_peer_channel(settings, settings.auth_target)))
    revocations = Revocations(auth.fetch_revocations, poll_seconds=settings.revocation_poll_seconds)
    runtime.background.start("revocations", revocations.follow())
    return Service(
        registrations=[
            ServicerRegistration(add_TrainingServiceServicer_to_server, TrainingServicer(training)),
            ServicerRegistration(add_WorkerServiceServicer_to_server, WorkerServicer(stores.workers, page_tokens)),
            ServicerRegistration(
                add_UseServiceServicer_to_server, UseServicer(stores.jobs, training.catalog, page_tokens)
            ),
            ServicerRegistration(
                add_EstimateServiceServicer_to_server, EstimateServicer(stores.workers, training.catalog)
            ),
            ServicerRegistration(add_QuotaServiceServicer_to_server, QuotaServicer(stores.quotas, page_tokens)),
            ServicerRegistration(add_PresetServiceServicer_to_server, PresetServicer()),
            ServicerRegistration(add_AttemptServiceServicer_to_server, AttemptServicer(attempt)),
            ServicerRegistration(add_CheckpointServiceServicer_to_server, CheckpointServicer(stores.attempts, files)),
            ServicerRegistration(
                add_PostTrainingServiceServicer_to_server, PostTrainingServicer(_post_training(training), files)
            ),
            ServicerRegistration(add_SourceServiceServicer_to_server, SourceServicer(stores.attempts, files)),
        ],
        error_table={**POSTGRES_FAILURES, **BLOB_FAILURES, **ERROR_TABLE},
        verifier=_verifier(auth, keys),
        long_rpcs=LONG_RPCS,
        revocations=revocations,
        peers=PEERS,
    )


def _post_training(training: TrainingParts) -> PostTrainingStores:
    return PostTrainingStores(training.jobs, training.requests, training.workers, training.queue, training.catalog)


def _attempt_parts(
    settings: SchedulerSettings,
    stores: _Stores,
    files: AttemptFiles,
    notifications: Notifications,
    keys: tuple[SigningKey, ...],
) -> AttemptParts:
    return AttemptParts(
        attempts=stores.attempts,
        uploads=stores.uploads,
        workers=stores.workers,
        files=files,
        notifications=notifications,
        issuer=TokenIssuer(keys[0].private_pem, keys[0].kid),
        join_secret=settings.join_secret.get_secret_value(),
        public_keys=tuple(key.jwk for key in keys),
    )


def _start_background(
    settings: SchedulerSettings,
    runtime: Runtime,
    stores: _Stores,
    training: TrainingParts,
    attempt: AttemptParts,
) -> None:
    background, notifications, feeds = runtime.background, attempt.notifications, training.feeds
    sweeper = Sweeper(
        stores.expiry,
        stores.outbox,
        stores.requests,
        stores.workers,
        stores.quotas,
        lease=timedelta(seconds=settings.lease_seconds),
        interval_seconds=settings.sweep_seconds,
    )
    relay = OutboxRelay(stores.outbox, _connect_nats(settings, runtime), notifications)
    collector = GarbageCollector(stores.garbage, attempt.files)
    background.start("listen", notifications.run())
    background.start("end streams", notifications.close_when(background.stopping), may_finish=True)
    background.start("end watches", feeds.close_when(background.stopping), may_finish=True)
    background.start("tell queue", tell_queue(training.queue, feeds))
    background.start("sweep", sweeper.run())
    background.start("relay outbox", relay.run())
    background.start("collect garbage", collector.run(settings.sweep_seconds))
    background.start("count", Census("reeltune_scheduler", stores.census.count, runtime.metrics).run())
    runtime.metrics.register(metrics.REGISTRY)
    metrics.show_watches(runtime.metrics, lambda: feeds.watch_count, settings.max_watches)


async def _open_database(settings: SchedulerSettings, runtime: Runtime) -> Pool:
    dsn = settings.postgres_dsn.get_secret_value()
    await migrate(dsn, SCHEMA, MIGRATIONS)
    # A replica that is frozen in the middle of a write keeps the job from all others: for a third of a lease.
    idle = max(1.0, settings.lease_seconds / 3)
    pool = await open_pool(dsn, SCHEMA, max_size=settings.postgres_pool_size, idle_in_transaction_seconds=idle)
    runtime.stack.push_async_callback(pool.close)
    show_pool(pool, runtime.metrics)
    return pool


async def _open_blob_store(settings: SchedulerSettings, runtime: Runtime) -> BlobStore:
    address = urlsplit(settings.s3_endpoint)
    blob = BlobStore(
        address.netloc or settings.s3_endpoint,
        settings.s3_access_key,
        settings.s3_secret_key.get_secret_value(),
        settings.s3_bucket,
        public_url=settings.s3_public_url,
        secure=address.scheme == "https",
        ca_file=settings.s3_ca_file,
    )
    runtime.stack.push_async_callback(blob.close)
    await blob.ensure_bucket()
    return blob


async def _open_catalog(settings: SchedulerSettings, runtime: Runtime) -> Catalog:
    return Catalog(await runtime.stack.enter_async_context(open_peer_channel(settings, settings.catalog_target)))


def _verifier(auth: AuthClient, keys: tuple[SigningKey, ...]) -> TokenVerifier:
    own = StaticKeys({key.kid: key.public_pem for key in keys})
    users = USER_TOKEN.trusted(JwksKeys(auth.fetch_jwks))
    return TokenVerifier([users, WORKER_TOKEN.trusted(own), ATTEMPT_GRANT.trusted(own)])


def _watch_limits(settings: SchedulerSettings) -> WatchLimits:
    return WatchLimits(
        watches=settings.max_watches,
        watches_per_user=settings.max_watches_per_user,
        concurrent_reads=max(1, settings.postgres_pool_size // 4),
        poll_seconds=settings.watch_heartbeat_seconds,
    )


def _connect_nats(settings: SchedulerSettings, runtime: Runtime) -> WakeUps:
    jetstream = connect(
        settings.nats_url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value(),
        name="scheduler",
    )
    runtime.stack.push_async_callback(jetstream.close)
    return WakeUps(jetstream)
