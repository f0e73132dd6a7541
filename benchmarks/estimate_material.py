"""`python -m benchmarks.estimate_material FOLDER`: models of several families and sizes with random weights, and clips.

Small enough for a CPU, wide enough that a run's activations and weights can be told from what its libraries take.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trainer_svc.qlora.quiet import quiet_libraries

WIDE = {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 6, "num_attention_heads": 6}
LARGE = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 16}
CLIP_SIDE, CLIP_FRAMES, CLIPS = 160, 24, 16


def main(folder: Path) -> None:
    """Writes `wide` and `large` (Qwen3-VL), `qwen2_5` and `internvl`, and the dataset `clips`."""
    quiet_libraries()
    from trainer_svc.qlora.tiny_base import build_processor

    processor = build_processor()
    # 10 × 10 tokens for each pair of frames.
    processor.video_processor.max_video_tokens = 100
    processor.video_processor.size = {"shortest_edge": 32 * 32, "longest_edge": 768 * 16 * 16 * 8}
    _save(folder / "wide", _qwen3(processor.tokenizer, WIDE), processor)
    _save(folder / "large", _qwen3(processor.tokenizer, LARGE), processor)
    _save(folder / "internvl", *_internvl())
    _write_clips(folder / "clips")


def _qwen3(tokenizer: Any, text: dict[str, int]) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            **text,
            "vocab_size": 32_000,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_heads": 3,
            "patch_size": 8,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 400,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return Qwen3VLForConditionalGeneration(config)


def _internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    from trainer_svc.qlora.tiny_base import CHAT_TEMPLATE, build_processor

    words = build_processor().tokenizer
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        pad_token=words.pad_token,
        eos_token=words.eos_token,
        additional_special_tokens=[*marks.values(), "<video>"],
        # Attributes that are still there when it is loaded again.
        extra_special_tokens={**marks, "video_token": "<video>"},
        model_max_length=words.model_max_length,
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **WIDE, "vocab_size": 32_000, "num_key_value_heads": 2, "pad_token_id": 0},
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": [224, 224],
            "patch_size": [14, 14],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=64,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    size = {"height": 224, "width": 224}
    template = CHAT_TEMPLATE.replace("<|vision_start|><|video_pad|><|vision_end|>", "<video>")
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        video_processor=InternVLVideoProcessor(size=size),
        tokenizer=tokenizer,
        image_seq_length=64,
        chat_template=template,
    )
    return InternVLForConditionalGeneration(config), processor


def _save(folder: Path, model: Any, processor: Any) -> None:
    import torch

    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def _write_clips(folder: Path) -> None:
    import av
    import numpy as np

    rows = []
    (folder / "clips").mkdir(parents=True)
    for number in range(CLIPS):
        with av.open(str(folder / "clips" / f"{number}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=12)
            stream.width = stream.height = CLIP_SIDE
            stream.pix_fmt = "yuv420p"
            for index in range(CLIP_FRAMES):
                picture = np.full((CLIP_SIDE, CLIP_SIDE, 3), (index * 9 + number * 5) % 255, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        question = [{"type": "video", "uri": f"{number}.mp4"}, {"type": "text", "text": "Which colour comes first?"}]
        answer = [{"type": "text", "text": "The red one comes first."}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"sample_id": f"s{number}", "split": "train", "messages": messages})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
