"""Components, scores and ranks, without a model."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.qlora.cross_modal_rank_allocator import (
    BudgetTooSmallError,
    Layer,
    Share,
    ShareTooSmallError,
    allocate,
    batch_scores,
    components,
    smoothed,
    truncated,
    truncation_error,
)
from trainer_svc.qlora.spec import TargetGroup

MOST = 4
layers = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(
        Layer,
        group=st.sampled_from(["vision", "projector", "language"]),
        cost=st.integers(1, 50),
        scores=st.lists(st.just(0.0) | st.floats(1e-6, 1e6), min_size=MOST, max_size=MOST),
    ),
    min_size=1,
    max_size=8,
)


def random_adapter(rank: int = 4, wide: int = 9, high: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(rank, wide, generator=generator), torch.randn(high, rank, generator=generator)


def spent(plan: dict[str, int], over: dict[str, Layer], group: TargetGroup | None = None) -> int:
    return sum(over[name].cost * rank for name, rank in plan.items() if group in (None, over[name].group))


def test_components_are_those_of_the_update() -> None:
    a, b = random_adapter()
    parts = components(a, b, scale=0.5)
    update = 0.5 * (b @ a).double()
    assert torch.allclose(parts.u @ torch.diag(parts.sigma) @ parts.v.T, update, atol=1e-5)
    assert torch.allclose(parts.sigma, torch.linalg.svdvals(update)[:4], atol=1e-5)
    assert torch.allclose(a.double().T @ parts.coefficients, parts.v, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 1, 3, 4])
def test_a_truncation_is_the_best_approximation_of_its_rank(rank: int) -> None:
    a, b = random_adapter()
    parts = components(a, b, scale=2.0)
    short_a, short_b = truncated(parts, rank, scale=2.0)
    assert (short_a.shape, short_b.shape) == ((rank, 9), (7, rank))
    update = 2.0 * b @ a
    error = torch.linalg.matrix_norm(update - 2.0 * short_b @ short_a)
    best = torch.linalg.svdvals(update)[rank:].square().sum().sqrt()
    assert float(error) == pytest.approx(float(best), abs=1e-4)
    assert truncation_error(parts, rank) == pytest.approx(float(error / torch.linalg.matrix_norm(update)), abs=1e-5)


def test_scores_are_those_of_the_gradient_that_is_never_formed() -> None:
    a, b = random_adapter()
    scale = 0.25
    gradient = torch.randn(7, 9, generator=torch.Generator().manual_seed(9)).double()
    parts = components(a, b, scale)
    expected = [
        float(sigma * u @ gradient @ v) ** 2 for sigma, u, v in zip(parts.sigma, parts.u.T, parts.v.T, strict=True)
    ]
    b_gradient = scale * gradient @ a.double().T
    assert batch_scores(parts, b_gradient, scale).tolist() == pytest.approx(expected, rel=1e-5)


def test_rows_of_a_that_depend_on_each_other_hurt_nothing() -> None:
    a, b = random_adapter()
    a[3] = a[2]
    parts = components(a, b, 1.0)
    assert float(parts.sigma[3]) == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(batch_scores(parts, torch.ones(7, 4), 1.0)).all()


def test_an_adapter_that_has_learned_nothing_has_no_components() -> None:
    a, b = random_adapter()
    parts = components(a, torch.zeros_like(b), 1.0)
    assert truncation_error(parts, 0) == 0
    assert batch_scores(parts, torch.ones(7, 4), 1.0).tolist() == [0, 0, 0, 0]


@given(layers, st.integers(0, 2000))
def test_the_budget_is_kept_and_a_larger_one_takes_nothing_away(found: dict[str, Layer], budget: int) -> None:
    plan = allocate(found, budget, most_rank=MOST)
    assert spent(plan, found) <= budget
    assert all(0 <= rank <= MOST for rank in plan.values())
    more = allocate(found, budget + 37, most_rank=MOST)
    assert all(more[name] >= rank for name, rank in plan.items())


@given(layers, st.integers(0, 2000), st.sampled_from([0.25, 8.0, 1024.0]))
def test_only_the_scores_relations_count(found: dict[str, Layer], budget: int, factor: float) -> None:
    scaled = {
        name: Layer(layer.group, layer.cost, [factor * score for score in layer.scores])
        for name, layer in found.items()
    }
    assert allocate(scaled, budget, most_rank=MOST) == allocate(found, budget, most_rank=MOST)


@given(layers)
def test_every_layer_gets_its_least_rank_or_nothing_is_allocated(found: dict[str, Layer]) -> None:
    needed = sum(layer.cost for layer in found.values())
    assert all(rank >= 1 for rank in allocate(found, needed, least_rank=1, most_rank=MOST).values())
    with pytest.raises(BudgetTooSmallError, match=f"takes {needed}"):
        allocate(found, needed - 1, least_rank=1, most_rank=MOST)


@given(st.lists(st.floats(0, 1e6), max_size=12))
def test_smoothed_scores_fall_and_keep_their_sum(scores: list[float]) -> None:
    flat = smoothed(scores)
    assert math.fsum(flat) == pytest.approx(math.fsum(scores), rel=1e-9, abs=1e-9)
    assert all(later <= earlier * (1 + 1e-12) + 1e-300 for earlier, later in itertools.pairwise(flat))


def test_a_strong_component_behind_a_weak_one_is_reached() -> None:
    found = {"deep": Layer("language", 1, [1.0, 9.0]), "flat": Layer("language", 1, [4.0, 4.0])}
    assert allocate(found, 2, most_rank=2) == {"deep": 2, "flat": 0}


def test_cheap_layers_are_preferred_at_equal_scores() -> None:
    found = {"wide": Layer("language", 10, [5.0]), "narrow": Layer("language", 2, [5.0])}
    assert allocate(found, 10, most_rank=1) == {"wide": 0, "narrow": 1}


def test_a_part_gets_no_less_and_no_more_than_its_share() -> None:
    found = {
        **{f"v{index}": Layer("vision", 10, [1.0] * 4) for index in range(5)},
        **{f"l{index}": Layer("language", 10, [100.0] * 4) for index in range(5)},
    }
    assert spent(allocate(found, 200, most_rank=4), found, "vision") == 0
    floor: dict[TargetGroup, Share] = {"vision": Share(least=0.3)}
    assert spent(allocate(found, 200, most_rank=4, shares=floor), found, "vision") == 60
    cap: dict[TargetGroup, Share] = {"language": Share(most=0.5)}
    capped = allocate(found, 200, most_rank=4, shares=cap)
    assert (spent(capped, found, "language"), spent(capped, found, "vision")) == (100, 100)


def test_what_no_loss_would_miss_gets_nothing() -> None:
    found = {"idle": Layer("vision", 1, [0.0, 0.0]), "busy": Layer("language", 1, [1.0, 0.0])}
    assert allocate(found, 100, most_rank=2) == {"idle": 0, "busy": 1}


def test_a_least_rank_never_takes_more_than_a_part_may_get() -> None:
    found = {f"v{number}": Layer("vision", 10, [1.0] * 4) for number in range(4)}
    found |= {f"l{number}": Layer("language", 10, [1.0] * 4) for number in range(4)}
    with pytest.raises(ShareTooSmallError, match=r"vision takes 50\.0% of the budget .* may get 10\.0%"):
        allocate(found, 160, least_rank=2, most_rank=4, shares={"vision": Share(0, 0.1)})
    allocate(found, 160, least_rank=2, most_rank=4, shares={"vision": Share(0, 0.5)})
