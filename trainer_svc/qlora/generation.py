"""Text from a model: how `generate` is called, for questions, evaluations and what is shown while training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from trainer_svc.qlora.lookout import between_tokens
from trainer_svc.qlora.model_loader import BaseModel

_LEAST_TEMPERATURE = 1e-3
"""Below it the likeliest token is as good as certain, and logits divided by it no longer fit into a float."""


def generate_tokens(
    model: Any,
    base: BaseModel,
    inputs: Mapping[str, Any],
    *,
    pad_token_id: int,
    max_new_tokens: int,
    is_cancelled: Callable[[], bool],
    temperature: float = 0.0,
    seed: int = 0,
    streamer: BaseStreamer | None = None,
) -> list[int]:
    """The tokens that follow the one conversation in `inputs`, which lie on the model's device.

    Args:
        model: The base model, or the same with an adapter.
        base: Whose end tokens count.
        inputs: As `DataProcessor.encode_prompt` makes them.
        pad_token_id: That of the same processor.
        max_new_tokens: How many at most. An answer ends where the model's context does, too: what follows it would be
            nonsense, as the model was not built for such places.
        is_cancelled: Asked before every token but the first.
        temperature: 0: greedy.
        seed: Of what is drawn at a temperature; torch's random state is left where that leads.
        streamer: Told of tokens as they come.
    """
    prompt_tokens = inputs["input_ids"].shape[1]
    if base.max_positions:
        max_new_tokens = min(max_new_tokens, base.max_positions - prompt_tokens)
    if max_new_tokens <= 0:
        return []
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if temperature >= _LEAST_TEMPERATURE:
        torch.manual_seed(seed)
        sampling |= {"do_sample": True, "temperature": temperature}
    output = model.generate(
        **inputs,
        **sampling,
        max_new_tokens=max_new_tokens,
        eos_token_id=base.end_tokens,
        pad_token_id=pad_token_id,
        use_cache=True,
        streamer=streamer,
        stopping_criteria=between_tokens(is_cancelled),
    )
    new: list[int] = output[0, prompt_tokens:].tolist()
    return new


def text_of(tokenizer: Any, tokens: list[int]) -> str:
    """Tokens as text, without control tokens."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
