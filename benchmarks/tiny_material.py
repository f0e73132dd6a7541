"""`python -m benchmarks.tiny_material MODEL DATASET CLIPS [QUESTIONS]`: the demo's model with random weights, and its
clips."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from reeltune_cli.demo.dataset import DemoRow, write_dataset
from trainer_svc.qlora.quiet import quiet_libraries


def main(model: Path, dataset: Path, clips: int, questions: int = 1) -> None:
    """Writes both folders; `questions`: 1 or 2 about each clip."""
    quiet_libraries()
    from trainer_svc.qlora.tiny_base import build_model, build_processor

    processor = build_processor()
    build_model(processor.tokenizer, seed=0).save_pretrained(model)
    processor.save_pretrained(model)
    rows = write_dataset(dataset, seed=0, train_clips=clips, held_out_clips=0)
    # The dataset asks about each clip twice; one question each lets no frame cache help.
    asked = rows if questions > 1 else {row.video: row for row in reversed(rows)}.values()
    lines = [json.dumps(canonical_row(row, number)) for number, row in enumerate(asked)]
    (dataset / "rows.jsonl").write_text("\n".join(lines) + "\n")


def canonical_row(row: DemoRow, number: int) -> dict[str, object]:
    """The row in the form that the trainer reads."""
    user = [{"type": "video", "uri": row.video}, {"type": "text", "text": row.question}]
    answer = [{"type": "text", "text": row.answer}]
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"sample_id": f"s{number}", "split": "train", "messages": messages}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(value) for value in sys.argv[3:5]))
