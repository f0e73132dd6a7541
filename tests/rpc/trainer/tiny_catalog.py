"""What a trainer's children really train on: a quarter-million-parameter Qwen3-VL, and clips of red and blue bars."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.qlora.tiny_models import save_qwen3_vl, write_dataset
from tests.rpc.trainer.mesh_doubles import Catalog, FileStore, sample


def tiny_catalog(store: FileStore, folder: Path) -> Catalog:
    """A catalog of both; they are made in `folder`."""
    model, dataset = save_qwen3_vl(folder / "model"), write_dataset(folder / "dataset")
    catalog = Catalog(store, model={path.name: path.read_bytes() for path in model.iterdir()})
    for line in (dataset / "rows.jsonl").read_text("utf-8").strip().split("\n"):
        row = json.loads(line)
        question, answer = row["messages"][-2:]
        clip = next(part["uri"] for part in question["content"] if part["type"] == "video")
        text = next(part["text"] for part in question["content"] if part["type"] == "text")
        catalog.clips[clip] = (dataset / "clips" / Path(clip).name).read_bytes()
        catalog.samples.append(sample(row["sample_id"], clip, text, answer["content"][0]["text"]))
    return catalog
