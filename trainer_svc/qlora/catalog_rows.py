"""A sample of the catalog as a canonical row of this library: the one place that knows both. Imports no gRPC."""

from __future__ import annotations

from typing import Any

from reeltune.catalog.v1 import sample_pb2

_COLUMNS = {
    "start_seconds": "start",
    "end_seconds": "end",
    "fps": "fps",
    "max_frames": "max_frames",
    "max_pixels": "max_pixels",
}


def sample_to_row(sample: sample_pb2.Sample) -> dict[str, Any]:
    """The row; its clips are named `clips/PATH`."""
    messages = [
        {"role": message.role, "content": [part_to_row(part) for part in message.content]}
        for message in sample.messages
    ]
    row = {"sample_id": sample.sample_id, "split": sample.split or "train", "messages": messages}
    # Without tags it is the row that it was before there were any: checkpoints know it by its bytes.
    return row | {"tags": list(sample.tags)} if sample.tags else row


def part_to_row(part: sample_pb2.ContentPart) -> dict[str, Any]:
    """A content part as `dataset_rows` reads it."""
    if part.WhichOneof("part") == "text":
        return {"type": "text", "text": part.text}
    video = part.video
    row: dict[str, Any] = {"type": "video", "uri": f"clips/{video.path}"}
    # Only limits that the row itself sets: each is `optional` in the contract.
    row |= {_COLUMNS[limit.name]: value for limit, value in video.ListFields() if limit.name in _COLUMNS}
    return row
