"""The answers of a base model and of its adapter to one question, one token of each in turn.

Each answer is bit for bit what the model gives when it is asked alone: the two share weights, never a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from trainer_svc.qlora.lockstep import Lockstep, PassOn

T = TypeVar("T")

SIDES = 2
"""The base model is side 0, the tuned one side 1."""


def answer_both(model: Any, answer: Callable[[bool, PassOn], T]) -> tuple[T, T]:
    """(the base model's, the tuned one's) results of `answer(of_base, pass_on)`, with a `pass_on` after each token.

    `model`: a peft model with the adapter active; it is so again afterwards. Random numbers are drawn by each side as
    if the other were not there.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    randomness = [_Randomness() for _ in range(SIDES)]

    def resumed(side: int) -> None:
        for layer in layers:
            layer.enable_adapters(side == 1)
        randomness[side].restore()

    sides: Lockstep[T] = Lockstep(resumed, lambda side: randomness[side].keep())
    try:
        base, tuned = sides.run([lambda pass_on: answer(True, pass_on), lambda pass_on: answer(False, pass_on)])
    finally:
        for layer in layers:
            layer.enable_adapters(True)
    return base, tuned


class _Randomness:
    """The random generators of one side while the other runs."""

    def __init__(self) -> None:
        self._kept: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def keep(self) -> None:
        self._kept = (torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def restore(self) -> None:
        if self._kept is None:
            return
        torch.set_rng_state(self._kept[0])
        if self._kept[1]:
            torch.cuda.set_rng_state_all(self._kept[1])
