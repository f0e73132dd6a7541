"""Put everything a job needs into one folder, in the training library's layout."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_svc.clients.catalog import CatalogClient, DatasetSnapshot
from trainer_svc.clients.scheduler import SchedulerClient
from trainer_svc.domain.attempt import AFTER_TRAINING, JobClaim
from trainer_svc.domain.errors import StorageUnavailableError
from trainer_svc.qlora.after_training_spec import EVALUATION, MERGE, SOURCE
from trainer_svc.qlora.spec import TrainingSpec
from trainer_svc.rehearsal.spec import SECTION
from trainer_svc.usecases.content_cache import ContentCache, refresh_from
from trainer_svc.usecases.live_attempt import LiveAttempt
from trainer_svc.usecases.restore_checkpoint import CheckpointRestorer


async def materialise_job(
    attempt: LiveAttempt,
    folder: Path,
    restorer: CheckpointRestorer,
    *,
    scheduler: SchedulerClient,
    catalog: CatalogClient,
    cache: ContentCache,
    threads: int,
    encoder_cache_bytes: int,
) -> None:
    """Fills `folder` with model/, dataset/, cache/, spec.json and, if there is one, the checkpoint to go on from.

    For a job that begins with another's adapter, source/ holds that.

    Raises:
        StorageUnavailableError, SchedulerUnavailableError, CallRefusedError: something cannot be had.
        UnsafePathError: a path would lead out of the folder.
        SpecError: the parameters cannot be carried out.
        NoSuchRowsError: the dataset has no rows to ask about.
    """
    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailableError(f"{error.strerror or error} on the trainer's disk") from error
    # The checkpoint's URLs came with the claim: it goes first.
    if restorer.has_candidate:
        attempt.show_phase("fetching checkpoint")
        await restorer.restore()
    attempt.show_phase("fetching model")
    await _fetch_model(attempt, folder, catalog, cache)
    if attempt.claim.recipe in AFTER_TRAINING:
        attempt.show_phase("fetching adapter")
        await _fetch_source(attempt, folder, scheduler, cache)
    attempt.show_phase("fetching clips")
    snapshot = await _fetch_dataset(attempt, folder, catalog, cache)
    specification = attempt.claim.specification
    devices = attempt.claim.device_count if attempt.claim.rehearsal is None else 1
    machine = {"threads": threads, "devices": devices, "encoder_cache_mib": encoder_cache_bytes >> 20}
    runtime = {**specification.get("runtime", {}), **machine}
    spec = TrainingSpec.from_dict({**specification, "runtime": runtime}).validate()
    content = spec.to_dict()
    if attempt.claim.rehearsal is not None:
        content[SECTION] = dict(attempt.claim.rehearsal)
    content |= _after_training(attempt.claim, snapshot.split)
    await asyncio.to_thread(_write_inputs, folder, content, snapshot.rows)
    await asyncio.to_thread(_link_cache, folder, cache.children)
    await asyncio.to_thread(_write_owner, folder, attempt.claim.owner_id)
    await cache.evict()


async def _fetch_model(attempt: LiveAttempt, folder: Path, catalog: CatalogClient, cache: ContentCache) -> None:
    model_id = attempt.claim.model_id
    # The grant is renewed meanwhile.
    refresh = refresh_from(lambda _: catalog.get_model_files(attempt.grant, model_id))
    files = await catalog.get_model_files(attempt.grant, model_id)
    await cache.take_folder("models", files, folder / "model", refresh)


async def _fetch_dataset(
    attempt: LiveAttempt, folder: Path, catalog: CatalogClient, cache: ContentCache
) -> DatasetSnapshot:
    dataset_id = attempt.claim.dataset_id
    refresh = refresh_from(lambda path: catalog.get_clips(attempt.grant, dataset_id, [path]))
    claim = attempt.claim
    snapshot = await catalog.get_dataset(attempt.grant, dataset_id, every_split=claim.recipe in AFTER_TRAINING)
    if claim.evaluation is not None:
        snapshot.keep(claim.evaluation["split"], limit=claim.evaluation["max_rows"], seed=claim.evaluation["seed"])
    elif claim.merge is not None:
        snapshot.keep("", limit=claim.merge["check_rows"], seed=0, may_be_trained=True)
    if snapshot.skipped_rows:
        attempt.log("warning", f"{snapshot.skipped_rows} rows are of a split that is neither trained nor evaluated on")
    await cache.take_clips(snapshot.clips, folder / "dataset" / "clips", refresh)
    return snapshot


def _link_cache(folder: Path, target: Path) -> None:
    link = folder / "cache"
    try:
        target.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    except OSError as error:
        raise StorageUnavailableError(f"{error.strerror or error} on the trainer's disk") from error


def _write_owner(folder: Path, owner_id: str) -> None:
    """What is cached is one owner's: the child learns whose it is, and no name."""
    digest = hashlib.sha256(owner_id.encode()).hexdigest()
    try:
        (folder / "owner_digest").write_text(digest, encoding="ascii")
    except OSError as error:
        raise StorageUnavailableError(f"{error.strerror or error} on the trainer's disk") from error


async def _fetch_source(attempt: LiveAttempt, folder: Path, scheduler: SchedulerClient, cache: ContentCache) -> None:
    refresh = refresh_from(lambda _: scheduler.get_source_files(attempt.grant))
    files = await scheduler.get_source_files(attempt.grant)
    await cache.take_folder("adapters", files, folder / SOURCE, refresh)


def _after_training(claim: JobClaim, split: str) -> dict[str, Any]:
    """The parts of `spec.json` that only jobs after training have; which rows it is about is decided by now."""
    if claim.evaluation is not None:
        fields = {name: value for name, value in claim.evaluation.items() if name != "max_rows"}
        return {EVALUATION: {**fields, "split": split}}
    return {} if claim.merge is None else {MERGE: {"weights": claim.merge["weights"], "split": split}}


def _write_inputs(folder: Path, spec: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    try:
        (folder / "spec.json").write_text(json.dumps(spec, indent=2), encoding="utf-8")
        (folder / "dataset").mkdir(exist_ok=True)
        with (folder / "dataset" / "rows.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise StorageUnavailableError(f"{error.strerror or error} on the trainer's disk") from error
