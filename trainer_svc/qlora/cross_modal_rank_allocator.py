"""Where a budget of adapter parameters does most good, over vision tower, projector and language model.

An adapter is first trained for a while at a rank higher than it is to have. Each layer's update `dW = s B A` is then
taken apart into its singular components `sigma_i u_i v_i^T`, and each component scored by how much the loss would feel
its absence, to first order:

    S_i = mean over batches of (sigma_i u_i^T G v_i)^2        G = dL / dW

`G` itself (d_out x d_in, of a 4-bit matrix) is never formed: the gradient of B is `s G A^T`, and with `A^T c_i = v_i`
`u_i^T G v_i = u_i^T (dL/dB) c_i / s`. The components are then kept in the order of score per parameter until the budget
is spent, each layer's first ones first: what is kept of a layer is its best approximation of that rank (Eckart and
Young, 1936). Scores of that form are Fisher information's diagonal in the components' own basis, the importance that
AdaLoRA (arXiv 2303.10512) keeps running averages of; there ranks move while training, here once.

All functions are pure, and deterministic: ties are broken by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer_svc.qlora.spec import TargetGroup


@dataclass(frozen=True, slots=True)
class Components:
    """The singular components of a layer's update, largest first: r of them, or fewer where it has fewer dimensions."""

    sigma: Tensor
    """(r,), `s` included."""
    u: Tensor
    """(d_out, r)."""
    v: Tensor
    """(d_in, r)."""
    coefficients: Tensor
    """(r_adapter, r): the c_i with `A^T c_i = v_i`."""


@dataclass(frozen=True, slots=True)
class Share:
    """Of the budget, how much a part of the model gets at least and at most, 0 to 1."""

    least: float = 0.0
    most: float = 1.0


@dataclass(frozen=True, slots=True)
class Layer:
    """What the allocation knows of a layer."""

    group: TargetGroup
    cost: int
    """Parameters of one rank: d_in + d_out."""
    scores: Sequence[float] = field(repr=False)
    """One for each component, first to last."""


class BudgetTooSmallError(ValueError):
    """The budget does not even give each layer the least rank that it is to have."""

    def __init__(self, budget: int, needed: int) -> None:
        super().__init__(f"{budget} parameters do not give every layer its least rank, which takes {needed}")


class ShareTooSmallError(ValueError):
    """A part's least ranks take more than the most that it is to get."""

    def __init__(self, group: TargetGroup, least: float, most: float) -> None:
        super().__init__(
            f"{group} takes {least:.1%} of the budget for the least rank of its layers, and may get {most:.1%}"
        )
        self.group = group


def components(a: Tensor, b: Tensor, scale: float) -> Components:
    """Takes `scale * b @ a` apart without forming it: two thin QR factorisations and the SVD of an r x r matrix.

    Args:
        a: (r, d_in).
        b: (d_out, r).
        scale: What the layer multiplies its update by.
    """
    a64, b64 = a.detach().double(), b.detach().double()
    q_in, r_in = torch.linalg.qr(a64.T)
    q_out, r_out = torch.linalg.qr(b64)
    u, sigma, vt = torch.linalg.svd(scale * r_out @ r_in.T, full_matrices=False)
    # Least squares and no inverse: the rows of A may depend on each other, and then those v_i have sigma 0.
    coefficients = torch.linalg.pinv(a64.T) @ (q_in @ vt.T)
    return Components(sigma, q_out @ u, q_in @ vt.T, coefficients)


def batch_scores(parts: Components, b_gradient: Tensor, scale: float) -> Tensor:
    """(sigma_i u_i^T G v_i)^2 of one batch, (r,), from the gradient of B, (d_out, r_adapter)."""
    slopes = torch.einsum("oi,or,ri->i", parts.u, b_gradient.detach().double(), parts.coefficients) / scale
    return (parts.sigma * slopes).square()


def allocate(
    layers: Mapping[str, Layer],
    budget: int,
    *,
    least_rank: int = 0,
    most_rank: int,
    shares: Mapping[TargetGroup, Share] | None = None,
) -> dict[str, int]:
    """The rank of each layer; all together cost no more than `budget` parameters.

    A larger budget never takes a rank from a layer (as long as no part has a share), and scores that are all
    multiplied by the same number give the same ranks.

    Args:
        layers: By name.
        budget: Parameters.
        least_rank: Of every layer.
        most_rank: Of every layer.
        shares: Bounds on what a part of the model gets of the budget. A part whose layers are full may stay below its
            least share.

    Raises:
        BudgetTooSmallError: `least_rank` alone takes more than `budget`.
        ShareTooSmallError: `least_rank` alone takes more than a part may get.
    """
    least = {name: min(least_rank, len(layer.scores)) for name, layer in layers.items()}
    plan = _Plan(layers, budget, most_rank, shares or {}, least)
    if plan.spent > budget:
        raise BudgetTooSmallError(budget, plan.spent)
    for group, share in sorted(plan.shares.items()):
        if plan.spent_on(group) > share.most * budget:
            raise ShareTooSmallError(group, plan.spent_on(group) / budget, share.most)
    for group, share in sorted(plan.shares.items()):
        if share.least:
            plan.spend(group, until=share.least * budget)
    plan.spend(None, until=budget)
    return plan.ranks


def smoothed(scores: Sequence[float]) -> list[float]:
    """The scores made non-increasing: runs that rise are replaced by their mean (pool adjacent violators).

    A component comes with all before it, so that a strong one behind weak ones is worth what they are worth together.
    """
    pools: list[tuple[float, int]] = []
    for score in scores:
        total, count = float(score), 1
        while pools and pools[-1][0] / pools[-1][1] < total / count:
            before, number = pools.pop()
            total, count = total + before, count + number
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


def truncated(parts: Components, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """(A, B) of that rank, (rank, d_in) and (d_out, rank): with `scale` the best approximation of the update."""
    roots = parts.sigma[:rank].sqrt()
    return (roots[:, None] * parts.v[:, :rank].T / scale).float(), (parts.u[:, :rank] * roots).float()


def truncation_error(parts: Components, rank: int) -> float:
    """The share of the update's norm that a truncation to `rank` loses, 0 to 1 (Frobenius)."""
    whole = float(parts.sigma.norm())
    return float(parts.sigma[rank:].norm()) / whole if whole else 0.0


@dataclass(slots=True)
class _Plan:
    layers: Mapping[str, Layer]
    budget: int
    most_rank: int
    shares: Mapping[TargetGroup, Share]
    ranks: dict[str, int]

    @property
    def spent(self) -> int:
        return self.spent_on(None)

    def spent_on(self, group: TargetGroup | None) -> int:
        return sum(layer.cost * self.ranks[name] for name, layer in self.layers.items() if group in (None, layer.group))

    def spend(self, group: TargetGroup | None, until: float) -> None:
        """Takes components of `group`, or of all, by score per parameter, until `until` is spent there."""
        for name, index in self._order(group):
            layer = self.layers[name]
            if index != self.ranks[name] or self._is_capped(layer):
                continue
            if self.spent_on(group) + layer.cost > until or self.spent + layer.cost > self.budget:
                return
            self.ranks[name] += 1

    def _order(self, group: TargetGroup | None) -> list[tuple[str, int]]:
        offers = [
            (-score / layer.cost, name, index)
            for name, layer in self.layers.items()
            if group in (None, layer.group)
            for index, score in enumerate(smoothed(layer.scores)[: self.most_rank])
            if index >= self.ranks[name] and score > 0
        ]
        return [(name, index) for _, name, index in sorted(offers)]

    def _is_capped(self, layer: Layer) -> bool:
        share = self.shares.get(layer.group)
        return share is not None and self.spent_on(layer.group) + layer.cost > share.most * self.budget
