"""Reads what an evaluation or a merge has found out of its artifact."""

from __future__ import annotations

import orjson

from scheduler_svc.clients.attempt_files import AttemptFiles
from scheduler_svc.domain.errors import ArtifactDamaged, ArtifactNotFound, SourceUnfit
from scheduler_svc.domain.ids import JobId, UserId
from scheduler_svc.domain.job import Job, Recipe
from scheduler_svc.store.job_store import JobStore

REPORTS = {Recipe.EVALUATION: "evaluation.json", Recipe.MERGE: "reeltune_merge.json"}
"""The file of each recipe's report."""
_MAX_REPORT_BYTES = 2 * 1024 * 1024


async def read_report(
    job_id: JobId, owner_id: UserId, recipe: Recipe, jobs: JobStore, files: AttemptFiles
) -> tuple[Job, dict[str, object]]:
    """Returns the job and its report, every byte verified.

    Raises:
        JobNotFound: the job is not there.
        SourceUnfit: it is of another recipe.
        ArtifactNotFound: it has found nothing (yet).
        ArtifactDamaged: the report is not what was published.
    """
    job = await jobs.get(job_id, owner_id)
    if job.needs.recipe is not recipe:
        raise SourceUnfit(job_id, f"is a job of the recipe {job.needs.recipe}", f"be read as {recipe.lower()}")
    artifact = await jobs.get_artifact(job_id, owner_id)
    file = next((each for each in artifact.files.files if each.path == REPORTS[recipe]), None)
    if file is None:
        raise ArtifactNotFound(job_id, job.state)
    if file.size_bytes > _MAX_REPORT_BYTES:
        raise ArtifactDamaged(job_id, file.path)
    content = b"".join([chunk async for chunk in files.read(artifact.files, file)])
    try:
        report = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ArtifactDamaged(job_id, file.path) from error
    if not isinstance(report, dict):
        raise ArtifactDamaged(job_id, file.path)
    return job, report
