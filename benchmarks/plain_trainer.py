"""The baseline of `training_loop`: plain transformers.Trainer, peft, bitsandbytes and decord, nothing of Reeltune.

    python -m benchmarks.plain_trainer MODEL DATASET STEPS BATCH_SIZE FRAMES WORKERS

DATASET holds rows.jsonl and clips/. Prints one JSON object: samples per second between the ends of step WARM_UP and
of the last step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.video_utils import VideoMetadata

from benchmarks.training_loop import WARM_UP


class Rows(torch.utils.data.Dataset[Any]):
    """Decodes and encodes one sample at a time, in the loader's worker."""

    def __init__(self, folder: Path, processor: Any, frames: int) -> None:
        self.rows = [json.loads(line) for line in (folder / "rows.jsonl").open(encoding="utf-8")]
        self.clips = folder / "clips"
        self.processor = processor
        self.frames = frames

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import decord
        import numpy as np

        messages = self.rows[index]["messages"]
        name = messages[0]["content"][0]["uri"].split("/")[-1]
        reader = decord.VideoReader(str(self.clips / name), num_threads=1)
        chosen = np.round(np.linspace(0, len(reader) - 1, self.frames)).astype(int)
        frames = reader.get_batch(chosen).asnumpy()
        fps = reader.get_avg_fps()
        metadata = VideoMetadata(
            total_num_frames=len(reader),
            fps=fps,
            frames_indices=chosen.tolist(),
            height=frames.shape[1],
            width=frames.shape[2],
            duration=len(reader) / fps,
        )
        conversation = [
            {
                "role": m["role"],
                "content": [
                    {"type": "video", "video": frames} if part["type"] == "video" else part for part in m["content"]
                ],
            }
            for m in messages
        ]
        encoded = self.processor.apply_chat_template(
            conversation,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"do_sample_frames": False, "video_metadata": [metadata]},
        )
        mask = torch.as_tensor(encoded.pop("assistant_masks"))
        encoded.pop("video_metadata", None)
        encoded["labels"] = torch.where(mask.bool(), encoded["input_ids"], -100)
        return dict(encoded)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Pads on the right; videos one after another."""
    length = max(sample["input_ids"].shape[1] for sample in samples)
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key in ("input_ids", "attention_mask", "mm_token_type_ids", "labels"):
            filler = -100 if key == "labels" else 0
            values = [torch.nn.functional.pad(value, (0, length - value.shape[1]), value=filler) for value in values]
        batch[key] = torch.cat(values)
    return batch


class Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def main(model_dir: Path, dataset: Path, steps: int, batch_size: int, frames: int, workers: int) -> None:
    """Trains as long as asked and prints the throughput."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["model.visual", "lm_head"],
    )
    model = AutoModelForImageTextToText.from_pretrained(
        model_dir, quantization_config=quantization, dtype=torch.float32
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets))
    clock = Clock()
    with TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            learning_rate=2e-4,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            dataloader_num_workers=workers,
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=True,
            dataloader_prefetch_factor=4 if workers else None,
            log_level="error",
        )
        rows = Rows(dataset, AutoProcessor.from_pretrained(model_dir), frames)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        trainer.train()
    seconds = clock.ends[-1] - clock.ends[WARM_UP - 1]
    print(json.dumps({"samples_per_second": (steps - WARM_UP) * batch_size / seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(value) for value in sys.argv[3:7]))
