"""Annotation files onto this machine: in place whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from reeltune.catalog.v1 import dataset_content_pb2, dataset_pb2

from reeltune_cli.client.connection import Client
from reeltune_cli.client.errors import ClientError

_TIMEOUT_SECONDS = 3600


async def export_annotations(
    client: Client, dataset_id: str, form: dataset_pb2.AnnotationFormat.ValueType, to: Path | None
) -> Path:
    """Writes a dataset's samples as an annotation file and returns where it lies.

    Args:
        client: Signed in.
        dataset_id: A READY dataset.
        form: The form of the file.
        to: Where to write it; None: in this folder, by the name that the mesh gives it. What is there is replaced.

    Raises:
        ClientError: the file cannot be written.
        grpc.RpcError: the dataset is not READY, or the form has no place for a sample.
    """
    request = dataset_content_pb2.ExportDatasetRequest(dataset_id=dataset_id, format=form)
    part: Path | None = None
    try:
        async for message in client.datasets.ExportDataset(request, timeout=_TIMEOUT_SECONDS):
            if part is None:
                to = to or Path(Path(message.file_name).name)
                part = to.with_name(f".{to.name}.part")
                part.unlink(missing_ok=True)
            await asyncio.to_thread(_append, part, message.text)
        assert to is not None
        assert part is not None
        os.replace(part, to)
    except OSError as error:
        raise ClientError(
            f"{to} cannot be written: {error.strerror}", "EXPORT_FAILED", "choose another --to"
        ) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return to


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", newline="") as stream:
        stream.write(text)
