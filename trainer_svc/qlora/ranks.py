"""A run on several devices: one process for each, every one with the whole model, all with the same adapter.

Each process learns from its share of a step's samples; gradients are summed over all of them before the optimizer
moves, so that n processes learn what one would from the same samples, up to the order of additions. The sum is made
by hand instead of by `DistributedDataParallel`: an adapter's gradients are small, and a process without samples, as at
the end of an epoch, must not hold up the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

from trainer_svc.qlora.data_processor import Batch
from trainer_svc.qlora.errors import PeerLostError
from trainer_svc.qlora.messages import Failed, Log, StopReason, TrainingUp
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.run_context import JobFolders, RunContext

_FOR_EVER = timedelta(days=365)
"""Nobody here gives up: whoever watches the run knows its deadlines, and ends all of its processes."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a step holds, over all ranks."""

    samples: int
    tokens: int
    targets: int
    """Tokens that are learned."""


class Ranks:
    """One process of a run, and how it agrees with the others. Every method but `seed` is a meeting: all ranks must
    call it, in the same order. Alone, meetings cost nothing.

    All raise `PeerLostError` when another rank is gone.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        """`rank`: 0 is the one that reports and writes."""
        self.rank = rank
        self.count = count

    @classmethod
    def join(cls, store: Path | None, rank: int, count: int) -> Self:
        """Meets the others. Closed by `close`.

        `store`: where, a file that only this run knows; None: where the variables say that torchrun sets.
        """
        ranks = cls(rank, count)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _meeting():
            dist.init_process_group(
                backend,
                init_method=None if store else "env://",
                # By no address: those of files have no relative paths, and no place for some characters.
                store=dist.FileStore(str(store), count) if store else None,  # type: ignore[attr-defined]
                rank=rank,
                world_size=count,
                timeout=_FOR_EVER,
            )
        return ranks

    def close(self) -> None:
        """Leaves the others."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def name_of(self, base: BaseModel) -> str:
        """The devices as a person calls them."""
        return base.device_name if self.count == 1 else f"{self.count} x {base.device_name}"

    def seed(self, seed: int) -> None:
        """Gives this rank random numbers of its own, so that no two drop the same; the first keeps those it has, which
        are those of a run that is alone."""
        if self.rank:
            torch.manual_seed(seed + 1_000_003 * self.rank)

    def decide(self, value: Any) -> Any:
        """The first rank's `value`, which JSON must hold."""
        return self.gather(value if self.is_first else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, in their order, at all of them. JSON must hold it."""
        if self.count == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with _meeting():
            dist.all_gather(sizes, torch.tensor([len(text)]))
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
            dist.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))))
        return [json.loads(bytes(text[: int(size)].tolist())) for text, size in zip(texts, sizes, strict=True)]

    def totals(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, place by place."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        with _meeting():
            dist.all_reduce(summed)
        return [float(value) for value in summed]

    def counts(self, batches: Sequence[Batch]) -> Counts:
        """What a step holds, of which `batches` are this rank's share."""
        return Counts(
            *map(
                int,
                self.totals(
                    [
                        sum(len(batch.sample_ids) for batch in batches),
                        sum(batch.tokens for batch in batches),
                        sum(batch.target_tokens for batch in batches),
                    ]
                ),
            )
        )

    def merge(self, loss: torch.Tensor, parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
        """Sums gradients over all ranks, in place, and returns the sum of `loss` ().

        A parameter that has no gradient at any rank has none afterwards: an optimizer would treat a zero otherwise.
        """
        if self.count == 1:
            return loss
        chosen = list(parameters)
        has = torch.tensor([float(each.grad is not None) for each in chosen], device=loss.device)
        parts = [each.grad if each.grad is not None else torch.zeros_like(each) for each in chosen]
        flat = torch.cat([part.detach().float().flatten() for part in parts] + [has, loss.detach().float().reshape(1)])
        with _meeting():
            dist.all_reduce(flat)
        sizes = [each.numel() for each in chosen]
        *summed, has, total = torch.split(flat, [*sizes, len(chosen), 1])
        for each, gradient, owners in zip(chosen, summed, has.tolist(), strict=True):
            each.grad = gradient.view_as(each).to(each.dtype).clone() if owners else None
        return total.squeeze(0)

    def copy_from_first(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Gives every rank the first one's values."""
        if self.count == 1:
            return
        with _meeting(), torch.no_grad():
            for each in parameters:
                held = each.detach().contiguous()
                dist.broadcast(held, src=0)
                each.copy_(held)


class RankedRun:
    """A run as one of its ranks sees it: orders come from the first, and reach all between the same two steps."""

    def __init__(self, run: RunContext, ranks: Ranks) -> None:
        self._run = run
        self._ranks = ranks

    @property
    def own(self) -> RunContext:
        """The run without its meetings: what this process alone has heard."""
        return self._run

    @property
    def folders(self) -> JobFolders:
        return self._run.folders

    def report(self, message: TrainingUp) -> None:
        is_trouble = isinstance(message, Failed) or (isinstance(message, Log) and message.level in ("warning", "error"))
        if self._ranks.is_first or is_trouble:
            self._run.report(message)

    def stop_requested(self) -> StopReason | None:
        reason = self._ranks.decide(self._run.stop_requested())
        return StopReason(reason) if reason else None


@contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    # What torch.distributed raises when a connection is gone has many types; all derive from this one.
    except RuntimeError as error:
        raise PeerLostError(str(error).partition("\n")[0]) from error
