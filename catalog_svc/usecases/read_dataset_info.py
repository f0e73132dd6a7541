"""What a dataset's files say from outside about its annotation file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain import issue
from catalog_svc.domain.dataset_info import DATASET_INFO_NAME, MAX_INFO_BYTES, DatasetInfo, parse_dataset_info
from catalog_svc.domain.imports import bound_path, is_web_address
from catalog_svc.domain.issue import Issue
from catalog_svc.domain.upload import StoredFile


async def read_dataset_info(objects: ObjectStore, files: Mapping[str, StoredFile]) -> DatasetInfo | Issue:
    """Returns what `dataset_info.json` says, or what is wrong with it; a row's web address means its imported file."""
    info: DatasetInfo | Issue = DatasetInfo()
    if side_file := files.get(DATASET_INFO_NAME):
        if side_file.size_bytes > MAX_INFO_BYTES:
            what = f"the file has {side_file.size_bytes} bytes, at most {MAX_INFO_BYTES} are read"
            return issue.error("DATASET_INFO_INVALID", what, "keep the entry of this dataset", file=side_file.path)
        data = await objects.read(side_file.place, MAX_INFO_BYTES)
        info = parse_dataset_info(data, files.keys())
    if isinstance(info, Issue):
        return info

    def imported(url: str) -> str | None:
        path = bound_path(url) if is_web_address(url) else ""
        return path if path in files else None

    return replace(info, media_root=replace(info.media_root, bind=imported))
