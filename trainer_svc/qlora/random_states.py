"""The random generators of a process, ready for JSON: what one rank gives another to keep."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch

from trainer_svc.qlora.ranks import Ranks


def plain_states() -> dict[str, Any]:
    """Those of Python and numpy, as they are now."""
    name, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "numpy": [name, [int(key) for key in keys], *rest]}


def restore_plain_states(states: dict[str, Any]) -> None:
    """Sets what `plain_states` gave."""
    python = states["python"]
    random.setstate((python[0], tuple(python[1]), python[2]))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))


def random_states() -> dict[str, Any]:
    """Those of Python, numpy and torch, as they are now."""
    return {
        **plain_states(),
        "torch": {key: base64.b64encode(bytes(state.tolist())).decode() for key, state in torch_states().items()},
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Sets what `random_states` gave."""
    restore_plain_states(states)
    restore_torch_states({key: _tensor(state) for key, state in states["torch"].items()})


def torch_states() -> dict[str, torch.Tensor]:
    """Those of torch alone, as they are now: what dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_torch_states(states: dict[str, torch.Tensor]) -> None:
    """Sets what `torch_states` gave."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def restore_rank(saved: dict[str, Any], ranks: Ranks, seed: int) -> bool:
    """Sets this rank's generators to what the state of a checkpoint, `saved`, holds of it; anew by `seed` where another
    number of ranks has saved it. Tells whether it went on exactly. Alone, `load_checkpoint` has set them already."""
    states = saved.get("ranks") or [None]
    if len(states) != ranks.count:
        ranks.seed(seed + int(saved["step"]))
        return False
    if ranks.count > 1:
        restore_random_states(states[ranks.rank])
    return True


def _tensor(state: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8)
