"""Artifacts onto this machine: verified, and in place whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import httpx
from reeltune.scheduler.v1 import artifact_pb2
from reeltune.scheduler.v1 import training_history_pb2 as history

from reeltune_cli.client.connection import Client
from reeltune_cli.client.errors import ClientError
from reeltune_cli.client.progress import Silence, TransferProgress

_TRIES = 4
_FIRST_PAUSE_SECONDS = 0.5
_STREAM_TIMEOUT_SECONDS = 3600


async def download_artifact(
    client: Client, job_id: str, folder: Path, progress: TransferProgress | None = None
) -> artifact_pb2.Artifact:
    """Downloads a job's artifact into a folder by presigned URLs, and returns it.

    Each file is written under another name, verified by size and SHA-256, and renamed.

    Raises:
        ClientError: a file cannot be fetched, or its bytes are not the promised ones.
        grpc.RpcError: there is no artifact.
    """
    progress = progress or Silence()
    artifact = await _artifact(client, job_id)
    progress.begin(len(artifact.files), artifact.size_bytes)
    async with client.open_http() as http:
        for number, file in enumerate(artifact.files):
            destination = _destination(folder, file.path)
            problem = await _fetch(http, file, destination, progress)
            for attempt in range(1, _TRIES):
                if problem is None:
                    break
                await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
                file = (await _artifact(client, job_id)).files[number]
                problem = await _fetch(http, file, destination, progress)
            if problem is not None:
                raise ClientError(
                    f"{file.path} cannot be downloaded: {problem}", "DOWNLOAD_FAILED", "run the same command again"
                )
    return artifact


async def stream_artifact(
    client: Client, job_id: str, folder: Path, progress: TransferProgress | None = None
) -> artifact_pb2.Artifact:
    """Does the same over the gRPC port alone, for those who cannot reach the object store."""
    progress = progress or Silence()
    artifact: artifact_pb2.Artifact | None = None
    target: _Target | None = None
    call = client.training.DownloadArtifact(
        history.DownloadArtifactRequest(job_id=job_id), timeout=_STREAM_TIMEOUT_SECONDS
    )
    try:
        async for message in call:
            match message.WhichOneof("payload"):
                case "artifact":
                    artifact = message.artifact
                    progress.begin(len(artifact.files), artifact.size_bytes)
                case "file":
                    if target is not None:
                        target.finish()
                    target = _Target(message.file, _destination(folder, message.file.path), progress)
                case "chunk" if target is not None:
                    await asyncio.to_thread(target.write, message.chunk)
                case "end_digest" if target is not None and artifact is not None:
                    target.finish()
                    target = None
                    return artifact
    finally:
        if target is not None:
            target.discard()
    raise ClientError("the download was cut", "DOWNLOAD_FAILED", "run the same command again")


class _Target:
    """A file being written beside its place."""

    def __init__(self, file: artifact_pb2.ArtifactFile, destination: Path, progress: TransferProgress) -> None:
        self._file = file
        self._destination = destination
        self._progress = progress
        self._digest = hashlib.sha256()
        self._size = 0
        destination.parent.mkdir(parents=True, exist_ok=True)
        self._partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
        self._stream: BinaryIO = self._partial.open("wb")
        progress.begin_file(file.path, file.size_bytes)

    def write(self, chunk: bytes) -> None:
        """Appends bytes."""
        self._stream.write(chunk)
        self._digest.update(chunk)
        self._size += len(chunk)
        self._progress.advance(self._file.path, len(chunk))

    def finish(self) -> None:
        """Verifies the bytes and puts the file in place.

        Raises:
            ClientError: they are not the promised ones.
        """
        self._stream.close()
        if self._size != self._file.size_bytes or self._digest.hexdigest() != self._file.sha256:
            self.discard()
            raise ClientError(
                f"{self._file.path} arrived damaged: {self._size} of {self._file.size_bytes} bytes, or other ones",
                "DIGEST_MISMATCH",
                "run the same command again",
            )
        self._partial.replace(self._destination)
        self._progress.end_file(self._file.path)

    def discard(self) -> None:
        """Removes what was written."""
        self._stream.close()
        self._partial.unlink(missing_ok=True)
        self._progress.advance(self._file.path, -self._size)
        self._size = 0


async def _artifact(client: Client, job_id: str) -> artifact_pb2.Artifact:
    return (await client.training.GetArtifact(history.GetArtifactRequest(job_id=job_id))).artifact


async def _fetch(
    http: httpx.AsyncClient, file: artifact_pb2.ArtifactFile, destination: Path, progress: TransferProgress
) -> str | None:
    """Fetches one file; returns what went wrong if another try may help."""
    target = _Target(file, destination, progress)
    try:
        async with http.stream("GET", file.url) as response:
            if not response.is_success:
                target.discard()
                return f"the object store answered {response.status_code}"
            async for chunk in _chunks(response):
                await asyncio.to_thread(target.write, chunk)
        target.finish()
    except httpx.TransportError as error:
        target.discard()
        return f"{type(error).__name__}: {error}"
    except BaseException:
        target.discard()
        raise
    return None


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    # Raw: what is verified is what was stored, whatever content encoding a proxy might add.
    async for chunk in response.aiter_raw(1024 * 1024):
        yield chunk


def _destination(folder: Path, path: str) -> Path:
    """Returns where a file goes, never outside the folder."""
    parts = PurePosixPath(path).parts
    if not parts or any(part in ("..", ".", "/") or "\\" in part or "\0" in part for part in parts):
        raise ClientError(f"the artifact holds a file with the impossible path {path!r}", "PATH_INVALID")
    return folder.joinpath(*parts)
