"""Folders into datasets and models: presigned PUTs, a few at a time, resumable; small files share their calls."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from reeltune.catalog.v1 import upload_batch_service_pb2 as batch_pb
from reeltune.catalog.v1 import upload_pb2
from reeltune.catalog.v1 import upload_service_pb2 as pb

from meshkit.rpc.status import failure_from_rpc_error
from reeltune_cli.client.connection import Client
from reeltune_cli.client.errors import ClientError
from reeltune_cli.client.progress import Silence, TransferProgress
from reeltune_cli.client.put_threads import PutFailed, PutThreads

FILES_AT_ONCE = 4
_SMALL_BYTES = 8 * 1024 * 1024
"""Files of up to so many bytes are announced and completed together."""
_BATCH_FILES = 32
"""Of each batch: what announcing and completing cost beside each file is shared by so many."""
_BATCH_BYTES = 64 * 1024 * 1024
"""As many at most are announced together: their addresses end 15 minutes later, and a slow link has to send them."""
_FIRST_BATCH_FILES = 4
"""Of the first batch, for something to be sent soon; each further one may have twice as many."""
_BATCHES_AT_ONCE = 3
"""While one is being sent, another is read and announced, and a third is completed."""
_PARTS_AT_ONCE = 4
_RENEW_BEFORE_SECONDS = 60
"""An address that ends so soon is not used any more: what is refused has been sent for nothing."""
_RENEW_AFTER_SECONDS = 60
"""So old must it be for that: it may be this machine's clock that is wrong, and would have each renewed at once."""
_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.5
_COMPLETE_TIMEOUT_SECONDS = 600
"""The mesh reads a file of several parts back to verify it."""
_ONE_BY_ONE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
"""With what a batch is refused although its files may be taken: one of them is none, or the mesh knows no batches."""
_COMPLETE_ONE_BY_ONE = (*_ONE_BY_ONE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Many may take longer together than one call may last; what has been completed by then is simply answered."""
_SEND_AGAIN = ("UPLOAD_INCOMPLETE", "UPLOAD_NOT_FOUND")
"""Why a file cannot be completed that was sent: the upload has ended meanwhile, or the store has lost a part."""
_OTHER_BYTES, _THERE_ALREADY = 400, 412
"""What the store answers to a PUT whose bytes it verifies."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to upload."""

    file: Path
    path: str
    """Its path in the dataset or model, with `/`."""
    size_bytes: int


@dataclass(slots=True)
class _Sending:
    """A file on its way."""

    file: LocalFile
    header: pb.FileHeader
    upload: upload_pb2.Upload
    """The newest offer: one that came before may have ended."""
    was_changed: bool = False
    """It has been read again, as it was not any more what had been announced."""
    offer_time: float = field(default_factory=time.time)
    """When the newest offer came, in seconds since 1970."""
    renewal: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the part that has all addresses renewed."""

    def renew(self, upload: upload_pb2.Upload) -> None:
        """Takes a new offer."""
        self.upload, self.offer_time = upload, time.time()

    def ends_soon(self) -> bool:
        """Whether the addresses of the newest offer may end before they are used."""
        now = time.time()
        left = self.upload.expire_time.seconds - now
        return left < _RENEW_BEFORE_SECONDS and now - self.offer_time >= _RENEW_AFTER_SECONDS


class _FileChanged(Exception):
    """A file does not hold the bytes that were announced."""


@dataclass(frozen=True, slots=True)
class UploadSummary:
    """What an upload did."""

    files: int
    size_bytes: int
    removed: Sequence[str]
    """Files of an earlier upload that the folder does not hold."""


def list_folder(folder: Path) -> list[LocalFile]:
    """Returns the files of a folder and its sub-folders by path, without hidden ones.

    Raises:
        ClientError: the folder is not there or holds no file.
    """
    if not folder.is_dir():
        raise ClientError(f"there is no folder {folder}", "FOLDER_NOT_FOUND", "name the folder that holds the files")
    files = []
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            files.append(LocalFile(file, relative.as_posix(), file.stat().st_size))
    if not files:
        raise ClientError(f"{folder} holds no file", "FOLDER_EMPTY", "name the folder that holds the files")
    return files


async def upload_folder(
    client: Client, parent_id: str, folder: Path, progress: TransferProgress | None = None
) -> UploadSummary:
    """Makes the files of a dataset or model those of a folder; files in place already are not sent again.

    Raises:
        ClientError: a file cannot be read or sent.
        grpc.RpcError: the mesh refuses a file.
    """
    files = await asyncio.to_thread(list_folder, folder)
    progress = progress or Silence()
    progress.begin(len(files), sum(file.size_bytes for file in files))
    removed = await _remove_others(client, parent_id, {file.path for file in files})
    async with client.open_put_threads(_PARTS_AT_ONCE) as puts:
        upload = _Upload(client, puts, parent_id, progress)
        waiting = iter(_batches(files))
        await _run_all(_send_each(upload, waiting) for _ in range(_BATCHES_AT_ONCE))
    return UploadSummary(len(files), sum(file.size_bytes for file in files), removed)


async def upload_file(
    client: Client, parent_id: str, file: LocalFile, progress: TransferProgress | None = None
) -> None:
    """Puts one file into a dataset or model, beside those that are there; raises as `upload_folder` does."""
    progress = progress or Silence()
    progress.begin(1, file.size_bytes)
    async with client.open_put_threads(_PARTS_AT_ONCE) as puts:
        await _run_all([_Upload(client, puts, parent_id, progress).send([file])])


async def _run_all(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Runs coroutines side by side; the first that fails cancels the others, and its error is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _remove_others(client: Client, parent_id: str, paths: set[str]) -> list[str]:
    """Removes what an earlier upload put there and the folder does not hold: a mended folder must mend the dataset."""
    removed = []
    request = pb.ListFilesRequest(parent_id=parent_id, page_size=1000)
    while True:
        page = await client.uploads.ListFiles(request)
        removed += [file.path for file in page.files if file.path not in paths]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    for path in removed:
        await client.uploads.DeleteFile(pb.DeleteFileRequest(parent_id=parent_id, path=path))
    return removed


def _batches(files: Sequence[LocalFile]) -> list[list[LocalFile]]:
    """Returns the files in order: small ones together, a large one by itself."""
    batches: list[list[LocalFile]] = []
    most, has_room, size_bytes = _FIRST_BATCH_FILES, False, 0
    for file in files:
        is_small = file.size_bytes <= _SMALL_BYTES
        size_bytes += file.size_bytes
        if is_small and has_room and len(batches[-1]) < most and size_bytes <= _BATCH_BYTES:
            batches[-1].append(file)
            continue
        if is_small and has_room:
            most = min(2 * most, _BATCH_FILES)
        batches.append([file])
        has_room, size_bytes = is_small, file.size_bytes
    return batches


async def _send_each(upload: _Upload, waiting: Iterator[list[LocalFile]]) -> None:
    for files in waiting:
        await upload.send(files)


class _Upload:
    """One upload of many files."""

    def __init__(self, client: Client, puts: PutThreads, parent_id: str, progress: TransferProgress) -> None:
        self._client = client
        self._puts = puts
        self._parent_id = parent_id
        self._progress = progress
        self._files = asyncio.Semaphore(FILES_AT_ONCE)
        self._parts = asyncio.Semaphore(_PARTS_AT_ONCE)

    async def send(self, files: Sequence[LocalFile]) -> None:
        """Puts files in place that are announced and completed together."""
        headers = [await self._header(file) for file in files]
        uploads = await self._open_all(headers)
        sendings = [_Sending(*each) for each in zip(files, headers, uploads, strict=True)]
        await _run_all(self._send_file(sending) for sending in sendings)
        await self._complete_all(sendings)
        for file in files:
            self._progress.end_file(file.path)

    async def _header(self, file: LocalFile) -> pb.FileHeader:
        return pb.FileHeader(
            parent_id=self._parent_id,
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=await asyncio.to_thread(_sha256, file.file),
        )

    async def _open_all(self, headers: Sequence[pb.FileHeader]) -> list[upload_pb2.Upload]:
        if len(headers) == 1:
            return [await self._open(headers[0])]
        requests = [pb.CreateUploadRequest(file=header, accepts_headers=True) for header in headers]
        try:
            answer = await self._client.upload_batches.BatchCreateUploads(
                batch_pb.BatchCreateUploadsRequest(requests=requests)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in _ONE_BY_ONE:
                raise
            return [await self._open(header) for header in headers]
        # Asked for by itself, a file that was refused says why.
        return [
            result.upload if result.HasField("upload") else await self._open(header)
            for header, result in zip(headers, answer.results, strict=True)
        ]

    async def _complete_all(self, sendings: Sequence[_Sending]) -> None:
        left = [sending for sending in sendings if not sending.upload.complete]
        if len(left) > 1:
            requests = [pb.CompleteUploadRequest(upload_id=sending.upload.id) for sending in left]
            try:
                answer = await self._client.upload_batches.BatchCompleteUploads(
                    batch_pb.BatchCompleteUploadsRequest(requests=requests), timeout=_COMPLETE_TIMEOUT_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in _COMPLETE_ONE_BY_ONE:
                    raise
            else:
                failed = {result.upload_id for result in answer.results if result.HasField("error")}
                left = [sending for sending in left if sending.upload.id in failed]
        for sending in left:
            await self._complete_or_send_again(sending)

    async def _complete_or_send_again(self, sending: _Sending) -> None:
        """Completes an upload; one that has ended, or lacks what was sent, is opened and sent once more."""
        try:
            await self._complete(sending.upload)
        except grpc.aio.AioRpcError as error:
            if failure_from_rpc_error(error).reason not in _SEND_AGAIN:
                raise
            self._progress.advance(sending.file.path, -sending.file.size_bytes)
            sending.renew(await self._open(sending.header))
            await self._send_file(sending)
            if not sending.upload.complete:
                await self._complete(sending.upload)

    async def _complete(self, upload: upload_pb2.Upload) -> None:
        request = pb.CompleteUploadRequest(upload_id=upload.id)
        await self._client.uploads.CompleteUpload(request, timeout=_COMPLETE_TIMEOUT_SECONDS)

    async def _send_file(self, sending: _Sending) -> None:
        async with self._files:
            self._progress.begin_file(sending.file.path, sending.file.size_bytes)
            try:
                await self._send_parts(sending)
            except _FileChanged:
                await self._read_again(sending)
                await self._send_parts(sending)

    async def _send_parts(self, sending: _Sending) -> None:
        if sending.upload.complete:
            self._progress.advance(sending.file.path, sending.file.size_bytes)
        else:
            await _run_all(self._send_part(sending, sending.upload, part) for part in sending.upload.parts)

    async def _read_again(self, sending: _Sending) -> None:
        """Announces a file as it is now."""
        size_bytes = (await asyncio.to_thread(sending.file.file.stat)).st_size
        sending.file, sending.was_changed = replace(sending.file, size_bytes=size_bytes), True
        sending.header = await self._header(sending.file)
        sending.renew(await self._open(sending.header))

    async def _send_part(self, sending: _Sending, offer: upload_pb2.Upload, part: upload_pb2.UploadPart) -> None:
        path, problem = sending.file.path, None
        for attempt in range(_TRIES):
            if not part.arrived:
                async with self._parts:
                    offer, part = await self._in_time(sending, offer, part)
                    problem = None if part.arrived else await self._put(sending, part)
            if part.arrived:  # by a run that was cut, or with an answer that was lost
                self._progress.advance(path, part.size_bytes)
                return
            if problem is None:
                return
            if attempt < _TRIES - 1:
                await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
                sending.renew(await self._open(sending.header))  # the old address may have ended
                offer, part = sending.upload, _same_part(sending.upload, part)
        next_step = "run the same command again: what was sent is kept"
        raise ClientError(f"{path} cannot be sent: {problem}", "UPLOAD_FAILED", next_step)

    async def _put(self, sending: _Sending, part: upload_pb2.UploadPart) -> str | None:
        """Sends a part; returns what went wrong if another try may help."""
        file, sent = sending.file, 0

        def count(size_bytes: int) -> None:
            nonlocal sent
            sent += size_bytes
            self._progress.advance(file.path, size_bytes)

        try:
            status = await self._puts.put(part.url, part.headers, file.file, part.offset_bytes, part.size_bytes, count)
        except PutFailed as error:
            problem = str(error)
        else:
            if 200 <= status < 300 or (part.headers and status == _THERE_ALREADY):
                return None
            problem = f"the object store answered {status}"
            if part.headers and status == _OTHER_BYTES:
                self._progress.advance(file.path, -sent)
                sent = 0
                await self._check_is_unchanged(sending)
        self._progress.advance(file.path, -sent)
        return problem

    async def _check_is_unchanged(self, sending: _Sending) -> None:
        """Raises _FileChanged if a file has not the bytes that were announced; the second time, ClientError."""
        if await asyncio.to_thread(_sha256, sending.file.file) == sending.header.sha256:
            return  # a store has other reasons for this status, too
        if sending.was_changed:
            message = f"{sending.file.path} is being changed while it is sent"
            raise ClientError(message, "FILE_CHANGED", "run the command again when nothing writes to it any more")
        raise _FileChanged

    async def _in_time(
        self, sending: _Sending, offer: upload_pb2.Upload, part: upload_pb2.UploadPart
    ) -> tuple[upload_pb2.Upload, upload_pb2.UploadPart]:
        """Returns the part with an address that is good for long enough, and the offer that it belongs to."""
        async with sending.renewal:
            if sending.ends_soon():
                sending.renew(await self._open(sending.header))
        return sending.upload, part if offer is sending.upload else _same_part(sending.upload, part)

    async def _open(self, header: pb.FileHeader) -> upload_pb2.Upload:
        request = pb.CreateUploadRequest(file=header, accepts_headers=True)
        return (await self._client.uploads.CreateUpload(request)).upload


def _same_part(offer: upload_pb2.Upload, part: upload_pb2.UploadPart) -> upload_pb2.UploadPart:
    """Returns a part of an earlier offer by a new one; what that does not ask for has arrived."""
    arrived = upload_pb2.UploadPart(number=part.number, size_bytes=part.size_bytes, arrived=True)
    return next((same for same in offer.parts if same.number == part.number), arrived)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
