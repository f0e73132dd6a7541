"""The web addresses by which the rows of an annotation file name their clips."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from catalog_svc.clients.object_store import ObjectStore
from catalog_svc.domain.annotations import ANNOTATION_EXTENSIONS, MAX_FILE_BYTES, AnnotationPlan, AnnotationReader
from catalog_svc.domain.dataset_info import DatasetInfo
from catalog_svc.domain.entry import EntryId
from catalog_svc.domain.errors import SourceRefused
from catalog_svc.domain.file_path import extension
from catalog_svc.domain.imports import ImportItem, bound_path, is_web_address
from catalog_svc.domain.issue import Issue
from catalog_svc.store.file_store import FileStore
from catalog_svc.usecases.read_dataset_info import read_dataset_info


@dataclass(frozen=True, slots=True)
class ListAddresses:
    """Reads annotation files for the addresses in them."""

    files: FileStore
    objects: ObjectStore
    spool_dir: Path | None
    max_files: int

    async def items(self, dataset_id: EntryId, path: str) -> Sequence[ImportItem]:
        """Returns the clips to fetch, each once; rows that are not sound are left to the validation.

        Raises:
            SourceRefused: the file is no annotation file, or no row names an address.
        """
        if extension(path) not in ANNOTATION_EXTENSIONS:
            what = f"{path} is no annotation file by its name"
            raise SourceRefused("ANNOTATIONS_MISSING", what, "name one that ends in .csv, .jsonl or .json")
        files = {file.path: file for file in await self.files.list_all(dataset_id)}
        file = files.get(path)
        if file is None:
            what = f"the dataset holds no file {path}"
            raise SourceRefused("ANNOTATIONS_MISSING", what, "upload it, or give its address")
        if file.size_bytes > MAX_FILE_BYTES:
            what = f"{path} has {file.size_bytes} bytes, at most {MAX_FILE_BYTES} are read"
            raise SourceRefused("ANNOTATIONS_TOO_LARGE", what, "split the dataset in two")
        info = await read_dataset_info(self.objects, files)
        if isinstance(info, Issue):
            raise SourceRefused(info.reason, info.message, info.remedy)
        with tempfile.TemporaryDirectory(prefix="reeltune-rows-", dir=self.spool_dir) as folder:
            target = Path(folder) / "annotations"
            await self.objects.download(file.place, file.size_bytes, target)
            # Off the event loop: there may be hundreds of thousands of rows.
            found = await asyncio.to_thread(self._addresses, path, info, target)
        if not found:
            what = f"no row of {path} names its clip by an https address"
            raise SourceRefused("ADDRESSES_MISSING", what, "upload the clips, or mend the rows")
        return [ImportItem(place, url) for url, place in found.items()]

    def _addresses(self, path: str, info: DatasetInfo, target: Path) -> dict[str, str]:
        found: dict[str, str] = {}

        def note(url: str) -> str | None:
            if not is_web_address(url):
                return None
            found.setdefault(url, bound_path(url))
            return found[url]

        plan = AnnotationPlan(path, replace(info, media_root=replace(info.media_root, bind=note)))
        for _ in AnnotationReader(plan, lambda _: target.open("rb")):
            if len(found) > self.max_files:
                what = f"{path} names more than {self.max_files} clips"
                raise SourceRefused("TOO_MANY_FILES", what, "split the dataset in two")
        return found
