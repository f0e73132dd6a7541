"""Makes the demo's base model: a Qwen3-VL of a few million parameters, really trained on generated clips.

    python -m trainer_svc.qlora.tiny_base --out DIR [--seed N]

It learns to describe who is where in a picture, then who is there first and last in a clip. The fine-tuning task, asked
in other words and answered with one, is left to fine-tuning. The folder it writes is
what `AutoProcessor` and `AutoModelForImageTextToText` load, with its own byte-level BPE tokenizer; nothing comes from
a hub.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from reeltune_cli.demo.clips import FPS, FRAME_COUNT, SIZE, Frames, draw, sample_picture, sample_scene
from reeltune_cli.demo.questions import Turn, clip_turns, order_turns, picture_turns
from reeltune_cli.demo.recipe import BASE_RECIPE, BasePhase, BaseRecipe

_PATCH: Final = 8
_SEEN_SIZE: Final = 48
"""Width and height to which the processor brings a frame: 3 by 3 tokens, of which each names one place."""
_PAD: Final = "<|endoftext|>"
_END: Final = "<|im_end|>"
_SPECIAL: Final = (
    _PAD,
    "<|im_start|>",
    _END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_VOCABULARY: Final = 512

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>{% endgeneration %}"
    "{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's form, with the assistant's words marked so that training masks everything else."""

_log = logging.getLogger(__name__)


class BaseTrainingError(RuntimeError):
    """The base model did not learn its skills; the message tells the loss reached and what to try."""


def make_base(out: Path, *, seed: int = 0, recipe: BaseRecipe = BASE_RECIPE) -> dict[str, Any]:
    """Trains a base model from nothing and writes it, with its processor, to the new or empty folder `out`.

    The weights are written as bfloat16 safetensors. Returns the report that is also written as `training.json`.
    Raises FileExistsError for a folder that holds something, BaseTrainingError when the loss stays high.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name a new folder")
    started = time.monotonic()
    processor = build_processor()
    model = build_model(processor.tokenizer, seed)
    losses = _train(model, processor, np.random.default_rng([seed, 1]), recipe)
    report = {
        "seed": seed,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "final_loss": round(float(np.mean(losses[-20:])), 4),
        "recipe": asdict(recipe),
    }
    if not report["final_loss"] < recipe.max_final_loss:
        raise BaseTrainingError(
            f"after {len(losses)} steps the loss is {report['final_loss']}, wanted below {recipe.max_final_loss}; "
            f"try another --seed"
        )
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _log.info("base model with %d parameters in %.0f s", report["parameters"], time.monotonic() - started)
    return report


def build_processor() -> Qwen3VLProcessor:
    """The processor with its tokenizer: 8-pixel patches merged by 2, so a pair of frames costs 9 tokens."""
    size = {"shortest_edge": _SEEN_SIZE**2, "longest_edge": 64 * _SEEN_SIZE**2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=_PATCH,
            merge_size=2,
            size={"shortest_edge": _SEEN_SIZE**2, "longest_edge": _SEEN_SIZE**2},
        ),
        video_processor=Qwen3VLVideoProcessor(
            patch_size=_PATCH,
            merge_size=2,
            size=size,
            cap_pixels_per_frame=True,
            max_video_tokens=(_SEEN_SIZE // (2 * _PATCH)) ** 2,
            do_sample_frames=False,
        ),
        tokenizer=_train_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )


def _train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from the questions themselves: every word of theirs becomes one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        additional_special_tokens=[token for token in _SPECIAL if token not in (_PAD, _END)],
        model_max_length=4096,
    )


def _sentences() -> Iterator[str]:
    rng = np.random.default_rng(0)
    for _ in range(1500):
        scene = sample_scene(rng)
        for turn in (*picture_turns(scene), *clip_turns(scene, rng), *order_turns(scene)):
            yield f"user\n<0.3 seconds><1.8 seconds>{turn.question}"
            yield f"assistant\n{turn.answer}"


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """An untrained model for `tokenizer`: text 4 blocks of 256, vision 3 blocks of 128, float32."""
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "pad_token_id": token(_PAD),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": _PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 256,
            "num_position_embeddings": (_SEEN_SIZE // _PATCH) ** 2,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    _widen_initial_weights(model)
    model.generation_config.eos_token_id = token(_END)
    model.generation_config.pad_token_id = token(_PAD)
    return model


@torch.no_grad()
def _widen_initial_weights(model: torch.nn.Module) -> None:
    """Draws every matrix with standard deviation 1/sqrt(fan-in).

    The library's 0.02 is meant for widths of thousands. At 256 it leaves attention flat, and the model needs
    hundreds of steps before it begins to look at the clip at all.
    """
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        embedding = "embed_tokens" in name or "pos_embed" in name
        weight.normal_(0.0, 0.3 if embedding else weight[0].numel() ** -0.5)


def _train(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    rng: np.random.Generator,
    recipe: BaseRecipe,
) -> list[float]:
    """Runs the recipe's phases in order and returns the loss of every step."""
    optimizers = _optimizers(model, recipe)
    plan = [phase for phase in recipe.phases for _ in range(phase.steps)]
    rate = partial(_rate, total=len(plan), recipe=recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    model.train()
    losses: list[float] = []
    # One worker draws the next batch while this one is learned; one keeps the order of the random numbers fixed.
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(_batch, processor, rng, plan[0])
        for step in range(len(plan)):
            batch = coming.result()
            coming = pool.submit(_batch, processor, rng, plan[min(step + 1, len(plan) - 1)])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if (step + 1) % 25 == 0:
                _log.info("step %d of %d: loss %.3f", step + 1, len(plan), float(np.mean(losses[-25:])))
    return losses


def _optimizers(model: torch.nn.Module, recipe: BaseRecipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for the rest: half the steps of AdamW alone."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        inner = weight.ndim == 2 and any(part in name for part in ("layers.", "blocks.", "merger"))
        (matrices if inner else others).append(weight)
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_learning_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=recipe.adamw_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _rate(step: int, *, total: int, recipe: BaseRecipe) -> float:
    """The share of the full learning rate at a step: up, flat, and down to zero."""
    left = (total - step) / (total * recipe.decay_fraction)
    return min(1.0, (step + 1) / recipe.warmup_steps, left)


def _batch(processor: Qwen3VLProcessor, rng: np.random.Generator, phase: BasePhase) -> dict[str, torch.Tensor]:
    """Fresh scenes with their turns, as the model takes them; labels are -100 outside the assistant's words."""
    conversations, metadata = [], []
    for _ in range(phase.clips_per_step):
        if phase.asks == "picture":
            scene, indices = sample_picture(rng), [0, 1]
            turns = picture_turns(scene)
        else:
            scene, indices = sample_scene(rng), _sample_indices(rng, phase.frame_count)
            turns = clip_turns(scene, rng)
        frames = draw(scene, np.asarray(indices) / (FRAME_COUNT - 1))
        conversations.append(_conversation(turns, frames))
        metadata.append(_metadata(indices))
    encoded = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={
            "padding": True,
            "padding_side": "right",
            "do_sample_frames": False,
            "video_metadata": metadata,
        },
    )
    spoken = encoded.pop("assistant_masks")
    encoded.pop("video_metadata", None)
    return {**encoded, "labels": encoded["input_ids"].masked_fill(spoken == 0, -100)}


def _sample_indices(rng: np.random.Generator, count: int) -> list[int]:
    """Frames as trainers choose them: evenly with both ends, or with a fixed stride from a random offset."""
    stride = FRAME_COUNT // count
    if rng.random() < 0.4:
        return [int(index) for index in np.linspace(0, FRAME_COUNT - 1, count).round()]
    return list(range(int(rng.integers(stride)), FRAME_COUNT, stride))[:count]


def _metadata(indices: list[int]) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=FRAME_COUNT,
        fps=float(FPS),
        frames_indices=indices,
        width=SIZE,
        height=SIZE,
        duration=FRAME_COUNT / FPS,
    )


def _conversation(turns: list[Turn], frames: Frames) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        clip = [{"type": "video", "video": frames}] if number == 0 else []
        messages.append({"role": "user", "content": [*clip, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


def main() -> None:
    """The command line: `--out DIR [--seed N]`."""
    parser = argparse.ArgumentParser(prog="python -m trainer_svc.qlora.tiny_base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder for the model")
    parser.add_argument("--seed", type=int, default=0, help="fixes the initial weights and every clip")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make_base(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
