"""Answers questions about clips with stock transformers and peft: proof that an adapter needs nothing of ours.

    python -m trainer_svc.qlora.plain_reload --model MODEL --adapter ADAPTER --questions questions.json

`questions.json` is a list of `{"clip": PATH, "question": TEXT}`; the answers are printed as a JSON list, in order.
Nothing of this package is imported but the silencing of third-party notices: what is read here is what any user of
transformers, peft, bitsandbytes and PyAV would write.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

from trainer_svc.qlora.quiet import quiet_libraries, quiet_transformers


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # The heavy imports below stand in the functions that use them: the notices must be silenced before.
    quiet_libraries()
    quiet_transformers()
    questions = json.loads(options.questions.read_text())
    model, processor = load(options.model, options.adapter)
    answers = [answer(model, processor, Path(q["clip"]), q["question"], options.frames) for q in questions]
    sys.stdout.write(json.dumps(answers) + "\n")
    return 0


def load(model_dir: Path, adapter_dir: Path) -> tuple[Any, Any]:
    """The 4-bit base model with its adapter, as the adapter's sidecar says that the base was quantised."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

    quantization = json.loads((adapter_dir / "reeltune_adapter.json").read_text())["quantization"]
    base = AutoModelForImageTextToText.from_pretrained(
        model_dir,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=bool(quantization["double_quantization"]),
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=list(quantization["skipped_modules"]),
        ),
    )
    model = PeftModel.from_pretrained(base, adapter_dir)
    model.eval()
    return model, AutoProcessor.from_pretrained(model_dir)


def answer(model: Any, processor: Any, clip: Path, question: str, frame_count: int) -> str:
    """The greedy answer to `question` about `frame_count` frames spread evenly over the clip."""
    import torch
    from transformers.video_utils import VideoMetadata

    frames, fps = read_frames(clip)
    chosen = np.round(np.linspace(0, len(frames) - 1, min(frame_count, len(frames)))).astype(int)
    metadata = VideoMetadata(
        total_num_frames=len(frames),
        fps=fps,
        frames_indices=chosen.tolist(),
        height=frames.shape[1],
        width=frames.shape[2],
        duration=len(frames) / fps,
    )
    turn = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    inputs = processor(
        text=[text], videos=[frames[chosen]], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    inputs.pop("video_metadata", None)
    with torch.inference_mode():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=32)
    return str(processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def read_frames(clip: Path) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], float]:
    """All frames as uint8 (T, H, W, 3), and frames per second."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of the adapter")
    parser.add_argument("--questions", type=Path, required=True, help="JSON file of clips and questions")
    parser.add_argument("--frames", type=int, default=8, help="frames taken from each clip")
    return parser


if __name__ == "__main__":
    sys.exit(main())
