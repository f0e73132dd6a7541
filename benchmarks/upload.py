"""`upload`: 200 clips through the edge, against the `minio` client putting the same bytes straight into the store.

Ours is what `reeltune dataset upload` does before the validation: every file hashed, announced, sent through Envoy and
TLS by a presigned URL straight to its place, held there against its SHA-256 by the store, and recorded. The baseline is
`Minio.fput_object` over plaintext loopback to the same server, with as many files in flight; nobody proves what it
stored. Both send the same files in turn, other bytes each round: what an owner has stored is not sent again, as a last
upload shows.

On two cores it is processor time that is shared out, most of it the store's own and the same for both sides. What ours
adds is TLS at both ends of the edge, one more way through the kernel, the store's SHA-256 of every byte, and the rows
in Postgres. The figures tell the processor seconds of a round for each part, user's and kernel's together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from minio import Minio
from reeltune.catalog.v1 import dataset_service_pb2 as pb

from benchmarks.report import Result, print_result
from meshkit.blob.presign import REGION
from reeltune_cli.client.connection import Client
from reeltune_cli.client.upload import FILES_AT_ONCE, upload_folder
from reeltune_cli.stack.background import background_mesh
from reeltune_cli.stack.folder import StackFolder
from reeltune_cli.stack.secrets_file import load_or_make_secrets

CLIPS = 200
CLIP_BYTES = 2_000_000
"""Seven seconds of 720p as cameras and web sites encode it."""
BUCKET = "reeltune-catalog"
"""The one that the key opens."""
ROUNDS = 3
GOAL = 0.8
PARTS = {"weed": "store", "envoy": "edge", "catalog_svc": "catalog", "postgres": "postgres"}
"""What the figures call a process, by what is in its command."""


async def main() -> None:
    with TemporaryDirectory() as folder:
        work, home = Path(folder), Path(folder) / "home"
        async with background_mesh(home, "--no-trainer") as endpoint, Client(endpoint) as client:
            await client.session.sign_up("bench", "bench@example.com", secrets.token_urlsafe(24))
            store = _store(home)
            rounds, spent = [], []
            for number in range(ROUNDS):
                clips = await asyncio.to_thread(_write_clips, work / "clips")
                marks = [_processor_seconds()]
                bare = await asyncio.to_thread(_put_all, store, clips, number)
                marks.append(_processor_seconds())
                rounds.append((bare, await _upload(client, work / "clips", f"round {number}")))
                marks.append(_processor_seconds())
                spent.append({**_grown("minio_", *marks[:2]), **_grown("", *marks[1:])})
            again = await _upload(client, work / "clips", "again")
    ratios = [bare / ours for bare, ours in rounds]
    megabytes = CLIPS * CLIP_BYTES / 1e6
    print_result(
        Result(
            name="upload",
            ratio=statistics.median(ratios),
            goal=GOAL,
            higher_is_better=True,
            figures={
                "megabytes_per_second": megabytes / statistics.median(ours for _, ours in rounds),
                "minio_megabytes_per_second": megabytes / statistics.median(bare for bare, _ in rounds),
                "clips_per_second": CLIPS / statistics.median(ours for _, ours in rounds),
                "again_seconds": again,
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                **{name: statistics.median(each.get(name, 0.0) for each in spent) for name in spent[0]},
            },
        )
    )


def _store(home: Path) -> Minio:
    ports = json.loads((home / "data" / "ports.json").read_text())
    made = load_or_make_secrets(StackFolder(home / "data").secrets)
    return Minio(f"127.0.0.1:{ports['s3']}", "catalog", made.catalog_s3, secure=False, region=REGION)


def _processor_seconds() -> dict[str, float]:
    """Returns what this process and those of the mesh have taken so far, by part."""
    me = psutil.Process()
    found = {"client": sum(me.cpu_times()[:2])}
    for process in me.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            part = next((part for word, part in PARTS.items() if word in line), "others")
            found[part] = found.get(part, 0.0) + sum(process.cpu_times()[:2])
    return found


def _grown(prefix: str, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    grown = {part: after[part] - before.get(part, 0.0) for part in after}
    return {f"{prefix}{part}_seconds": seconds for part, seconds in grown.items() if seconds >= 0.01}


def _write_clips(folder: Path) -> list[Path]:
    """Writes clips of bytes that nobody has stored before."""
    folder.mkdir(exist_ok=True)
    clips = [folder / f"{number:03}.mp4" for number in range(CLIPS)]
    for clip in clips:
        clip.write_bytes(os.urandom(CLIP_BYTES))
    return clips


def _put_all(store: Minio, clips: list[Path], number: int) -> float:
    """Puts all clips as they are, and returns the seconds."""
    began = time.perf_counter()
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        list(threads.map(lambda clip: store.fput_object(BUCKET, f"bench/{number}/{clip.name}", str(clip)), clips))
    return time.perf_counter() - began


async def _upload(client: Client, folder: Path, name: str) -> float:
    """Uploads the folder into a new dataset, and returns the seconds."""
    began = time.perf_counter()
    dataset = (await client.datasets.CreateDataset(pb.CreateDatasetRequest(name=name))).dataset
    await upload_folder(client, dataset.id, folder)
    return time.perf_counter() - began


if __name__ == "__main__":
    asyncio.run(main())
