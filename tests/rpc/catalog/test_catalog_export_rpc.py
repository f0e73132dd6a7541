"""Export of a dataset as an annotation file, through a real channel and by the client of the command line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import dataset_pb2

from meshkit.auth.principal import Caller
from reeltune_cli.client import Client, ClientError, Credentials, Endpoint, MemoryCredentials
from reeltune_cli.client.export import export_annotations
from tests.rpc.catalog.catalog_mesh import ALICE, CatalogMesh, collected, refused
from tests.rpc.catalog.clips import h264_clip

SHAREGPT = dataset_pb2.ANNOTATION_FORMAT_SHAREGPT
NO_LINE_ENDS = "a\vb\fc\x1cd\x85e\u2028f\u2029g"
"""What some readers of lines take for their ends."""
ROWS = [
    {
        "messages": [
            {"role": "user", "content": "<video>What moves?"},
            {"role": "assistant", "content": f"Bar {number}." if number != 8 else NO_LINE_ENDS},
        ],
        "videos": ["a.mp4"],
        "split": "train" if number else "eval",
        **({"tags": ["a tag", f"t{number}"]} if number < 9 else {}),
    }
    for number in range(250)
]


def files(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    return {"annotations.json": json.dumps(rows).encode(), "a.mp4": h264_clip(0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that nobody else writes to."""
    own = tmp_path / "exported"
    own.mkdir()
    return own


def client_of(mesh: CatalogMesh) -> Client:
    credentials = MemoryCredentials()
    token = mesh.tokens.token(Caller.USER, ALICE, roles=("user",))
    credentials.save(Credentials("alice", token, time.time() + 240, "", 0))
    return Client(Endpoint(mesh.served.address, plaintext=True), credentials)


async def test_an_exported_dataset_can_be_uploaded_again_and_is_the_same(mesh: CatalogMesh, folder: Path) -> None:
    ready = await mesh.ready_dataset(files(ROWS), name="first")
    async with client_of(mesh) as client:
        written = await export_annotations(client, ready.id, SHAREGPT, folder / "annotations.json")
    assert [path.name for path in folder.iterdir()] == ["annotations.json"]
    rows = json.loads(written.read_text())
    assert len(rows) == len(ROWS)
    assert (rows[8]["tags"], "tags" in rows[9]) == (["a tag", "t8"], False)
    assert rows[8]["conversations"][1]["value"] == NO_LINE_ENDS
    assert rows[7]["conversations"][1] == {"from": "gpt", "value": "Bar 7."}
    again = await mesh.ready_dataset({"annotations.json": written.read_bytes(), "a.mp4": h264_clip(0)}, name="second")
    assert again.annotation_format == SHAREGPT
    assert again.fingerprint == ready.fingerprint


async def test_the_first_message_names_the_file_and_no_format_means_content_parts(mesh: CatalogMesh) -> None:
    ready = await mesh.ready_dataset(files(ROWS))
    request = content.ExportDatasetRequest(dataset_id=ready.id)
    messages = await collected(mesh.datasets.ExportDataset(request, metadata=mesh.as_user()))
    assert [message.file_name for message in messages] == ["annotations.jsonl", *([""] * (len(messages) - 1))]
    lines = "".join(message.text for message in messages).removesuffix("\n").split("\n")
    assert json.loads(lines[0])["messages"][0]["content"][0] == {"type": "video", "path": "a.mp4"}
    assert len(lines) == len(ROWS)


async def test_what_cannot_be_exported_is_refused_and_leaves_nothing(mesh: CatalogMesh, folder: Path) -> None:
    row = {"video": "a.mp4", "question": "Q", "answer": "A", "fps": 2, "sample_id": "mine"}
    ready = await mesh.ready_dataset(files([row]))
    target = folder / "annotations.json"
    async with client_of(mesh) as client:
        failure = await refused(export_annotations(client, ready.id, SHAREGPT, target))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "SAMPLE_NOT_HELD"
    assert failure.metadata == {
        "format": "SHAREGPT", "row": "1", "sample_id": "mine", "field": "messages[0].content[0]"
    }  # fmt: skip
    assert "CONTENT_PARTS" in failure.message
    assert list(folder.iterdir()) == []
    pending = await mesh.create_dataset("pending")
    for request, reason in (
        (content.ExportDatasetRequest(dataset_id=pending.id), "DATASET_STATE_CONFLICT"),
        (content.ExportDatasetRequest(dataset_id=ready.id, format=dataset_pb2.ANNOTATION_FORMAT_NOVA), "FIELD_INVALID"),
    ):
        call = collected(mesh.datasets.ExportDataset(request, metadata=mesh.as_user()))
        assert (await refused(call)).reason == reason


@pytest.mark.parametrize("folder", ["none/at/all", "file/annotations.json"])
async def test_a_file_that_cannot_be_written_is_told(mesh: CatalogMesh, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    ready = await mesh.ready_dataset(files(ROWS[:1]))
    async with client_of(mesh) as client:
        with pytest.raises(ClientError, match="cannot be written"):
            await export_annotations(client, ready.id, SHAREGPT, tmp_path / folder)
