"""Dropout with a mask drawn four elements at a time: as torch's own in everything but which elements it drops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer_svc.qlora.packed_dropout import PackedDropout, draw_packed


@pytest.mark.parametrize("p", [0.0001, 0.05, 0.5, 0.95])
def test_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(5)
    count = 1 << 20
    dropped = PackedDropout(p)(torch.ones(count))
    share = (dropped == 0).double().mean()
    deviation = (p * (1 - p) / count) ** 0.5
    assert abs(share - p) < 5 * deviation + 1 / (1 << 16)
    assert abs(dropped.double().mean() - 1) < 5 * deviation / (1 - p)
    assert dropped.unique().numel() == 2


def test_elements_are_dropped_independently_of_their_neighbours() -> None:
    """Four elements share 64 bits: none of them may tell anything of another."""
    torch.manual_seed(6)
    gone = (PackedDropout(0.3)(torch.ones(1 << 18, 4)) == 0).double()
    shares = torch.corrcoef(gone.T)
    assert torch.all((shares - torch.eye(4)).abs() < 5 / (1 << 9))
    again = torch.corrcoef(torch.stack([gone.flatten()[:-1], gone.flatten()[1:]]))
    assert abs(float(again[0, 1])) < 5 / (1 << 10)


@given(shape=st.lists(st.integers(0, 7), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_any_shape_and_any_type_come_out_as_they_went_in(shape: list[int], seed: int) -> None:
    for kind in (torch.float32, torch.bfloat16, torch.float64):
        torch.manual_seed(seed)
        x = torch.ones(shape, dtype=kind)
        y = PackedDropout(0.5)(x)
        assert y.shape == x.shape
        assert y.dtype == kind
        assert set(y.flatten().tolist()) <= {0.0, 2.0}


def test_views_that_are_not_contiguous_are_dropped_from_like_others() -> None:
    torch.manual_seed(7)
    y = PackedDropout(0.25)(torch.ones(64, 128).T)
    assert y.shape == (128, 64)
    assert 0.15 < float((y == 0).double().mean()) < 0.35


def test_the_gradient_is_that_of_the_same_mask() -> None:
    torch.manual_seed(8)
    x = torch.randn(32, 32, requires_grad=True)
    y = PackedDropout(0.4)(x)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.allclose(y, x * x.grad)
    assert torch.equal(x.grad == 0, y == 0)


def test_the_seed_decides_and_the_generator_moves_on() -> None:
    layer, x = PackedDropout(0.5), torch.ones(1000)
    torch.manual_seed(9)
    first, second = layer(x), layer(x)
    torch.manual_seed(9)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_the_number_of_threads_changes_nothing() -> None:
    before = torch.get_num_threads()
    drawn = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(10)
            drawn.append(PackedDropout(0.5)(torch.ones(300_000)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


def test_checkpointing_draws_the_same_mask_again() -> None:
    torch.manual_seed(11)
    layer, weight = PackedDropout(0.5), torch.randn(64, 64, requires_grad=True)
    masks: list[torch.Tensor] = []

    def block(x: torch.Tensor) -> torch.Tensor:
        dropped = layer(x)
        masks.append(dropped.detach() == 0)
        return (dropped @ weight).tanh()

    checkpoint(block, torch.ones(8, 64), use_reentrant=False).sum().backward()  # type: ignore[no-untyped-call]
    assert len(masks) == 2
    assert torch.equal(*masks)


def test_in_evaluation_and_at_zero_it_drops_nothing_and_draws_nothing() -> None:
    torch.manual_seed(12)
    x = torch.randn(10)
    before = torch.get_rng_state()
    assert torch.equal(PackedDropout(0.5).eval()(x), x)
    assert torch.equal(PackedDropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_takes_the_place_of_an_adapters_dropout_alone() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(0.3), "other": nn.Identity()})
            self.hidden = nn.Dropout(0.1)

    model = nn.Sequential(Adapted())
    draw_packed(model)
    layers = model[0].lora_dropout
    assert isinstance(layers["default"], PackedDropout)
    assert layers["default"].p == 0.3
    assert type(layers["other"]) is nn.Identity
    assert type(model[0].hidden) is nn.Dropout
