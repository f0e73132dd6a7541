"""The files of a rehearsal: a state that depends on every step, in checkpoints and in the adapter; safetensors and
JSON, written without any library."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_svc.qlora.checkpoint_folders import KeepRule, read_state, write_checkpoint
from trainer_svc.qlora.folder_files import write_folder, write_json

_BLOCK_BYTES = 1 << 20


def next_digest(digest: bytes, step: int) -> bytes:
    """What a step makes of the state: equal only for runs with equal steps all the way."""
    return hashlib.sha256(digest + step.to_bytes(8)).digest()


def write_rehearsal_checkpoint(
    folder: Path,
    digest: bytes,
    size_bytes: int,
    *,
    step: int,
    identity: dict[str, Any],
    keep: KeepRule,
    eval_loss: float | None = None,
) -> Path:
    """Writes a checkpoint of `size_bytes` besides its state."""

    def fill(building: Path) -> None:
        write_tensor(building / "rehearsal.safetensors", "filling", digest, size_bytes)

    return write_checkpoint(
        folder, {"digest": digest.hex()}, fill, step=step, identity=identity, keep=keep, eval_loss=eval_loss
    )


def read_rehearsal_checkpoint(checkpoint: Path) -> tuple[int, bytes]:
    """(steps done, state)."""
    state = read_state(checkpoint)
    return int(state["step"]), bytes.fromhex(state["digest"])


def write_rehearsal_adapter(folder: Path, digest: bytes, size_bytes: int, *, steps: int) -> dict[str, Any]:
    """Writes an adapter of `size_bytes` besides its description, and returns its manifest."""

    def fill(building: Path) -> None:
        write_tensor(building / "adapter_model.safetensors", "rehearsal", digest, size_bytes)
        write_json(building / "rehearsal.json", {"digest": digest.hex(), "steps": steps})

    return write_folder(folder, fill)


def write_tensor(file: Path, name: str, seed: bytes, size_bytes: int) -> None:
    """Writes a safetensors file of one tensor of bytes that follow from `seed`."""
    header = json.dumps({name: {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}).encode()
    # The format wants its data aligned to 8 bytes.
    header += b" " * (-len(header) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        for block in _blocks(seed, size_bytes):
            stream.write(block)


def _blocks(seed: bytes, size_bytes: int) -> Iterator[bytes]:
    for start in range(0, size_bytes, _BLOCK_BYTES):
        length = min(_BLOCK_BYTES, size_bytes - start)
        yield hashlib.shake_256(seed + start.to_bytes(8)).digest(length)
