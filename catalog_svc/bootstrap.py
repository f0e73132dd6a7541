"""Builds the service: opens what it needs, in order, and wires it up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from reeltune.catalog.v1.clip_service_pb2_grpc import add_ClipServiceServicer_to_server
from reeltune.catalog.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from reeltune.catalog.v1.import_service_pb2_grpc import add_ImportServiceServicer_to_server
from reeltune.catalog.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from reeltune.catalog.v1.sample_service_pb2_grpc import add_SampleServiceServicer_to_server
from reeltune.catalog.v1.snapshot_service_pb2_grpc import add_SnapshotServiceServicer_to_server
from reeltune.catalog.v1.storage_service_pb2_grpc import add_StorageServiceServicer_to_server
from reeltune.catalog.v1.upload_batch_service_pb2_grpc import add_UploadBatchServiceServicer_to_server
from reeltune.catalog.v1.upload_service_pb2_grpc import add_UploadServiceServicer_to_server
from reeltune.catalog.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from reeltune.catalog.v1.version_service_pb2_grpc import add_VersionServiceServicer_to_server

from catalog_svc import metrics
from catalog_svc.clients.foreign_objects import ForeignObjects
from catalog_svc.clients.guarded_http import FetchLimits, GuardedHttp
from catalog_svc.clients.local_content import LocalContent
from catalog_svc.clients.model_tool import ModelTool, ModelToolLimits
from catalog_svc.clients.object_store import ObjectStore, open_store
from catalog_svc.clients.scheduler import Scheduler
from catalog_svc.clients.spool_folder import spool_folder
from catalog_svc.clients.token_keys import attempt_grant_keys
from catalog_svc.probe.pool import ProbePool
from catalog_svc.rpc.clip_servicer import ClipServicer
from catalog_svc.rpc.dataset_servicer import DatasetServicer
from catalog_svc.rpc.error_table import ERROR_TABLE
from catalog_svc.rpc.import_servicer import ImportServicer
from catalog_svc.rpc.list_requests import ListEntries
from catalog_svc.rpc.model_servicer import ModelServicer
from catalog_svc.rpc.peers import PEERS
from catalog_svc.rpc.sample_servicer import SampleServicer
from catalog_svc.rpc.snapshot_servicer import SnapshotServicer
from catalog_svc.rpc.storage_servicer import StorageServicer
from catalog_svc.rpc.upload_batch_servicer import UploadBatchServicer
from catalog_svc.rpc.upload_servicer import UploadServicer
from catalog_svc.rpc.usage_servicer import UsageServicer
from catalog_svc.rpc.version_servicer import VersionServicer
from catalog_svc.settings import CatalogSettings
from catalog_svc.store.census_store import CensusStore
from catalog_svc.store.change_feed import ChangeFeed
from catalog_svc.store.dataset_store import DatasetStore
from catalog_svc.store.entry_store import EntryStore
from catalog_svc.store.file_batch_store import FileBatchStore
from catalog_svc.store.file_store import FileStore
from catalog_svc.store.garbage_store import GarbageStore
from catalog_svc.store.import_store import ImportStore
from catalog_svc.store.location_store import LocationStore, SecretBox
from catalog_svc.store.queries import MIGRATIONS, SCHEMA
from catalog_svc.store.statistics_store import StatisticsStore
from catalog_svc.store.sweep_store import SweepStore
from catalog_svc.store.usage_store import UsageStore
from catalog_svc.store.validation_store import ValidationStore
from catalog_svc.store.version_store import VersionStore
from catalog_svc.usecases.collect_garbage import CollectGarbage
from catalog_svc.usecases.describe_dataset import DescribeDataset
from catalog_svc.usecases.fetch_file import FetchFile
from catalog_svc.usecases.keep_versions import KeepVersions
from catalog_svc.usecases.list_addresses import ListAddresses
from catalog_svc.usecases.manage_entries import ManageEntries
from catalog_svc.usecases.manage_files import ManageFiles
from catalog_svc.usecases.manage_imports import ManageImports
from catalog_svc.usecases.manage_locations import ManageLocations
from catalog_svc.usecases.open_source import OpenSource
from catalog_svc.usecases.preview_sample import PreviewSample
from catalog_svc.usecases.read_content import ReadContent
from catalog_svc.usecases.run_import import RunImport
from catalog_svc.usecases.run_imports import RunImports
from catalog_svc.usecases.run_validations import RunValidations
from catalog_svc.usecases.settle_upload import SettleUpload
from catalog_svc.usecases.show_clips import ShowClips
from catalog_svc.usecases.store_file import StoreFile
from catalog_svc.usecases.sweep_objects import SweepObjects
from catalog_svc.usecases.try_model import TryModel
from catalog_svc.usecases.upload_by_parts import UploadByParts
from catalog_svc.usecases.upload_by_stream import UploadByStream
from catalog_svc.usecases.validate_dataset import ValidateDataset
from catalog_svc.usecases.validate_model import ValidateModel
from catalog_svc.usecases.watch_entry import WatchEntry
from meshkit.auth.auth_client import AuthClient
from meshkit.auth.keys import JwksKeys
from meshkit.auth.revocations import Revocations
from meshkit.auth.token_kinds import ATTEMPT_GRANT, USER_TOKEN
from meshkit.auth.tokens import TokenVerifier
from meshkit.blob import BlobStore
from meshkit.blob.failures import BLOB_FAILURES
from meshkit.lifecycle import Runtime, Service
from meshkit.postgres import Pool, migrate, open_pool
from meshkit.postgres.failures import POSTGRES_FAILURES
from meshkit.postgres.pool_gauges import show_pool
from meshkit.rpc.client import open_peer_channel
from meshkit.rpc.failure import failure_for
from meshkit.rpc.interceptors.authentication import Verifier
from meshkit.rpc.paging import PageTokens
from meshkit.rpc.registration import ServicerRegistration
from meshkit.telemetry.census import Census

ERRORS = {**POSTGRES_FAILURES, **BLOB_FAILURES, **ERROR_TABLE}
LONG_RPCS = frozenset(
    {
        "/reeltune.catalog.v1.DatasetService/ExportDataset",
        "/reeltune.catalog.v1.DatasetService/WatchDataset",
        "/reeltune.catalog.v1.ImportService/WatchImport",
        "/reeltune.catalog.v1.ModelService/WatchModel",
        "/reeltune.catalog.v1.UploadService/UploadFile",
        "/reeltune.catalog.v1.SnapshotService/StreamDatasetSnapshot",
    }
)


@dataclass(frozen=True, slots=True)
class Stores:
    """All that the use cases keep things in."""

    entries: EntryStore
    files: FileStore
    file_batches: FileBatchStore
    datasets: DatasetStore
    statistics: StatisticsStore
    validations: ValidationStore
    versions: VersionStore
    imports: ImportStore
    locations: LocationStore
    garbage: GarbageStore
    sweeps: SweepStore
    objects: ObjectStore
    usage: UsageStore
    changes: ChangeFeed
    scheduler: Scheduler


async def bootstrap(settings: CatalogSettings, runtime: Runtime) -> Service:
    """Opens database, object store and channels, and returns the service."""
    spool_dir = runtime.stack.enter_context(spool_folder(settings.spool_dir))
    settings = settings.model_copy(update={"spool_dir": spool_dir})
    pool = await _open_database(settings, runtime)
    runtime.metrics.register(metrics.REGISTRY)
    runtime.background.start("count", Census("reeltune_catalog", CensusStore(pool).count, runtime.metrics).run())
    objects = await _open_object_store(settings, runtime)
    scheduler = await _open_scheduler(settings, runtime)
    auth = AuthClient(await runtime.stack.enter_async_context(open_peer_channel(settings, settings.auth_target)))
    revocations = Revocations(auth.fetch_revocations, poll_seconds=settings.revocation_poll_seconds)
    runtime.background.start("revocations", revocations.follow())
    stores = make_stores(settings, pool, objects, Scheduler(scheduler))
    return Service(
        registrations=wire(settings, runtime, stores),
        error_table=ERRORS,
        verifier=_verifier(auth, scheduler),
        long_rpcs=LONG_RPCS,
        revocations=revocations,
        peers=PEERS,
    )


def make_stores(settings: CatalogSettings, pool: Pool, objects: ObjectStore, scheduler: Scheduler) -> Stores:
    """Returns the stores over an open pool and object store."""
    return Stores(
        entries=EntryStore(pool),
        files=FileStore(pool, settings.max_files),
        file_batches=FileBatchStore(pool, settings.max_files),
        datasets=DatasetStore(pool),
        statistics=StatisticsStore(pool),
        validations=ValidationStore(pool, timedelta(seconds=settings.validation_lease_seconds)),
        versions=VersionStore(pool),
        imports=ImportStore(pool, timedelta(seconds=settings.import_lease_seconds), settings.max_imports),
        locations=LocationStore(pool, SecretBox(settings.storage_key.get_secret_value())),
        garbage=GarbageStore(pool),
        sweeps=SweepStore(pool),
        objects=objects,
        usage=UsageStore(pool),
        changes=ChangeFeed(settings.postgres_dsn.get_secret_value()),
        scheduler=scheduler,
    )


def wire(settings: CatalogSettings, runtime: Runtime, stores: Stores) -> list[ServicerRegistration]:
    """Starts the background tasks and returns the servicers."""
    manage_entries = ManageEntries(stores.entries, stores.scheduler, timedelta(days=settings.undelete_days))
    settle_upload = SettleUpload(
        stores.files,
        stores.file_batches,
        stores.garbage,
        stores.objects,
        slots=asyncio.Semaphore(settings.settlements),
        # Batches leave threads to those who ask for little.
        looks=asyncio.Semaphore(max(1, settings.s3_threads // 2)),
    )
    runtime.stack.push_async_callback(settle_upload.close)
    tool = _start_model_tool(settings, runtime)
    _start_validators(settings, runtime, stores, manage_entries, tool)
    _start_housekeeping(settings, runtime, stores)
    page_tokens = PageTokens(settings.page_token_secret.get_secret_value().encode())
    list_entries = ListEntries(manage_entries, page_tokens)
    read_content = ReadContent(stores.entries, stores.files, stores.datasets, stores.objects)
    watch_entry = WatchEntry(stores.entries, stores.changes, runtime.background.stopping)
    dataset = DatasetServicer(manage_entries, list_entries, read_content, watch_entry, page_tokens)
    upload = _upload_servicer(settings, stores, settle_upload, page_tokens)
    keep_versions = KeepVersions(
        stores.versions, stores.entries, stores.files, stores.datasets, manage_entries.validation_wanted
    )
    model = ModelServicer(manage_entries, list_entries, watch_entry)
    local = LocalContent(stores.objects, settings.spool_dir, settings.preview_cache_bytes)
    runtime.stack.callback(local.close)
    clip = ClipServicer(ShowClips(stores.entries, stores.datasets, stores.objects), page_tokens)
    sample = SampleServicer(
        DescribeDataset(stores.entries, stores.statistics), PreviewSample(read_content, local, tool)
    )
    http = _guarded_http(settings, runtime)
    stores.objects.read_also(ForeignObjects(http, stores.locations.open_referred))
    imports = _start_importers(settings, runtime, stores, settle_upload, http)
    return [
        ServicerRegistration(add_DatasetServiceServicer_to_server, dataset),
        ServicerRegistration(add_ImportServiceServicer_to_server, ImportServicer(imports, page_tokens)),
        ServicerRegistration(
            add_StorageServiceServicer_to_server, StorageServicer(ManageLocations(stores.locations, http))
        ),
        ServicerRegistration(add_ModelServiceServicer_to_server, model),
        ServicerRegistration(add_UploadServiceServicer_to_server, upload),
        ServicerRegistration(
            add_UploadBatchServiceServicer_to_server, UploadBatchServicer(upload.upload_by_parts, ERRORS)
        ),
        ServicerRegistration(add_VersionServiceServicer_to_server, VersionServicer(keep_versions, page_tokens)),
        ServicerRegistration(add_ClipServiceServicer_to_server, clip),
        ServicerRegistration(add_UsageServiceServicer_to_server, UsageServicer(stores.usage, page_tokens)),
        ServicerRegistration(add_SampleServiceServicer_to_server, sample),
        ServicerRegistration(add_SnapshotServiceServicer_to_server, SnapshotServicer(read_content)),
    ]


def _upload_servicer(
    settings: CatalogSettings, stores: Stores, settle_upload: SettleUpload, page_tokens: PageTokens
) -> UploadServicer:
    by_parts = UploadByParts(
        stores.files,
        stores.file_batches,
        stores.objects,
        settle_upload,
        settings.max_file_bytes,
        stores.scheduler,
        # Batches leave connections to those who ask for little.
        asyncio.Semaphore(max(1, settings.postgres_pool_size // 2)),
    )
    by_stream = UploadByStream(
        stores.files,
        stores.objects,
        settle_upload,
        settings.max_file_bytes,
        settings.upload_streams,
        settings.upload_stall_seconds,
        stores.scheduler,
    )
    return UploadServicer(by_parts, by_stream, ManageFiles(stores.files, stores.entries), page_tokens)


def _start_validators(
    settings: CatalogSettings, runtime: Runtime, stores: Stores, manage: ManageEntries, tool: ModelTool
) -> None:
    children = ProbePool(
        settings.decoders(),
        deadline_seconds=settings.decode_seconds,
        max_pixels=settings.max_clip_pixels,
        child_bytes=settings.decode_child_bytes,
    )
    runtime.stack.push_async_callback(children.close)
    validators = RunValidations(
        validations=stores.validations,
        validate_dataset=ValidateDataset(
            stores.files, stores.datasets, stores.objects, children, settings.spool_dir, settings.max_clip_bytes
        ),
        validate_model=ValidateModel(
            stores.files,
            stores.objects,
            children,
            settings.spool_dir,
            TryModel(stores.objects, tool, settings.spool_dir, settings.forward_max_weight_bytes),
        ),
        pool=children,
        wanted=manage.validation_wanted,
        lease_seconds=settings.validation_lease_seconds,
        is_passing=_is_passing,
        pause_seconds=settings.validation_pause_seconds,
    )
    for number in range(1, settings.validations + 1):
        runtime.background.start(f"validator {number}", validators.run(), is_intake=True)


def _start_model_tool(settings: CatalogSettings, runtime: Runtime) -> ModelTool:
    limits = ModelToolLimits(
        processes=settings.model_tool_processes,
        preview_seconds=settings.preview_seconds,
        forward_seconds=settings.forward_seconds,
        memory_bytes=settings.model_tool_memory_bytes,
        idle_seconds=settings.model_tool_idle_seconds,
    )
    tool = ModelTool(settings.model_tool_command, limits)
    runtime.stack.push_async_callback(tool.close)
    runtime.background.start("model tool", tool.dismiss_idle())
    return tool


def _guarded_http(settings: CatalogSettings, runtime: Runtime) -> GuardedHttp:
    http = GuardedHttp(
        FetchLimits(max_bytes=settings.max_file_bytes, total_seconds=settings.import_file_seconds),
        ca_file=settings.import_ca_file,
        tolerated=filter(None, settings.import_test_hosts.split(",")),
    )
    runtime.stack.push_async_callback(http.close)
    return http


def _start_importers(
    settings: CatalogSettings, runtime: Runtime, stores: Stores, settle_upload: SettleUpload, http: GuardedHttp
) -> ManageImports:
    open_source = OpenSource(
        http,
        stores.imports,
        stores.locations,
        public_s3_endpoint=settings.import_s3_endpoint,
        hub_endpoint=settings.import_hub_url,
        folders=[Path(folder) for folder in settings.import_folders.split(":") if folder],
    )
    manage = ManageImports(stores.imports, stores.scheduler, open_source, stores.changes, runtime.background.stopping)
    store_file = StoreFile(stores.files, stores.objects, settle_upload, settings.max_file_bytes)
    run_import = RunImport(
        stores.imports,
        open_source,
        ListAddresses(stores.files, stores.objects, settings.spool_dir, settings.max_files),
        FetchFile(store_file, settings.spool_dir, settings.import_tries),
        settings.import_fetches,
        settings.max_files,
    )
    importers = RunImports(
        imports=stores.imports,
        run_import=run_import,
        wanted=manage.wanted,
        lease_seconds=settings.import_lease_seconds,
        is_passing=_is_passing,
        pause_seconds=settings.import_pause_seconds,
    )
    for number in range(1, settings.imports + 1):
        runtime.background.start(f"importer {number}", importers.run(), is_intake=True)
    return manage


def _is_passing(error: Exception) -> bool:
    failure = failure_for(error, ERRORS)
    return failure is not None and failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)


def _start_housekeeping(settings: CatalogSettings, runtime: Runtime, stores: Stores) -> None:
    collector = CollectGarbage(
        stores.garbage,
        stores.files,
        stores.entries,
        stores.objects,
        abandoned_after=timedelta(hours=settings.abandoned_upload_hours),
        retention=timedelta(days=settings.undelete_days),
    )
    runtime.background.start("garbage collector", collector.run(settings.garbage_seconds), is_intake=True)
    sweep = SweepObjects(
        stores.sweeps,
        stores.objects,
        older_than=timedelta(hours=settings.sweep_after_hours),
        due_after=timedelta(days=settings.sweep_due_days),
        pause=timedelta(seconds=settings.sweep_seconds),
        takes_many=settings.sweep_many,
    )
    runtime.background.start("sweep", sweep.run(), is_intake=True)
    runtime.background.start("change feed", stores.changes.run())


async def _open_database(settings: CatalogSettings, runtime: Runtime) -> Pool:
    dsn = settings.postgres_dsn.get_secret_value()
    await migrate(dsn, SCHEMA, MIGRATIONS)
    pool = await open_pool(dsn, SCHEMA, max_size=settings.postgres_pool_size)
    runtime.stack.push_async_callback(pool.close)
    show_pool(pool, runtime.metrics)
    return pool


async def _open_object_store(settings: CatalogSettings, runtime: Runtime) -> ObjectStore:
    endpoint = urlsplit(settings.s3_endpoint if "://" in settings.s3_endpoint else f"http://{settings.s3_endpoint}")
    blobs = BlobStore(
        endpoint.netloc,
        settings.s3_access_key,
        settings.s3_secret_key.get_secret_value(),
        settings.s3_bucket,
        public_url=settings.s3_public_url or None,
        secure=endpoint.scheme == "https",
        ca_file=settings.s3_ca_file,
        max_threads=settings.s3_threads,
    )
    runtime.stack.push_async_callback(blobs.close)
    await blobs.ensure_bucket()
    objects = await open_store(blobs)
    runtime.background.start("store trial", objects.keep_trying())
    return objects


async def _open_scheduler(settings: CatalogSettings, runtime: Runtime) -> grpc.aio.Channel | None:
    if not settings.scheduler_target:
        return None
    channel = open_peer_channel(settings, settings.scheduler_target)
    return await runtime.stack.enter_async_context(channel)


def _verifier(auth: AuthClient, scheduler: grpc.aio.Channel | None) -> Verifier:
    issuers = [USER_TOKEN.trusted(JwksKeys(auth.fetch_jwks))]
    if scheduler is not None:
        issuers.append(ATTEMPT_GRANT.trusted(JwksKeys(attempt_grant_keys(scheduler))))
    return TokenVerifier(issuers)
