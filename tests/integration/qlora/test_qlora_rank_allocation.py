"""Ranks by layer in a real run: the update kept as far as it can be, gone on from bit for bit, read by stock peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import one_batch
from peft import PeftModel
from recording_run import RecordingRun
from safetensors.torch import load_file

from trainer_svc.qlora.checkpoint import TrainState
from trainer_svc.qlora.inference import AdapterSet
from trainer_svc.qlora.loss import summed_loss
from trainer_svc.qlora.messages import Completed, Log, StopReason
from trainer_svc.qlora.model_loader import load_base_model
from trainer_svc.qlora.optimizers import make_optimizer
from trainer_svc.qlora.qlora_injector import inject, trainable
from trainer_svc.qlora.rank_allocation import allocate_ranks
from trainer_svc.qlora.spec import QuantizationSpec, SpecError, TrainingSpec
from trainer_svc.qlora.trainer import train

EVERYWHERE = [
    "lora.target_groups=language,projector,vision",
    "lora.rank=2",
    "lora.rank_allocation.calibration_batches=3",
]
NewRun = Callable[..., RecordingRun]


@pytest.fixture
def allocating(spec: TrainingSpec) -> TrainingSpec:
    """Six steps; ranks are allocated after the third."""
    return spec.with_overrides(
        [*EVERYWHERE, "lora.rank_allocation.warmup_steps=3", "lora.rank_allocation.warmup_rank=6"]
    )


def report_of(run: RecordingRun) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run.folders.adapter / "rank_allocation.json").read_text())
    return report


@pytest.mark.parametrize("rslora", [False, True])
def test_at_full_budget_the_model_is_as_it_was_and_below_it_nearly(
    qwen3: Path, spec: TrainingSpec, rslora: bool
) -> None:
    changed = {}
    for rank in (5, 2):
        wanted = spec.with_overrides(
            [
                *EVERYWHERE,
                f"lora.rank={rank}",
                "lora.rank_allocation.warmup_steps=1",
                "lora.rank_allocation.warmup_rank=6",
                f"lora.use_rslora={json.dumps(rslora)}",
            ]
        ).validate()
        base = load_base_model(qwen3, QuantizationSpec())
        batch = one_batch(base)
        model, _ = inject(base, wanted.lora, seed=1, gradient_checkpointing=True)
        with torch.no_grad():
            for name, value in trainable(model).items():
                generator = torch.Generator().manual_seed(sum(name.encode()))
                value.copy_(0.05 * torch.randn(value.shape, generator=generator))
                # Of six directions, no more than five say anything.
                value[-1 if "lora_A" in name else slice(None), slice(None) if "lora_A" in name else -1] = 0.0
        state = TrainState(model, make_optimizer(trainable(model).values(), wanted.optimization), None)  # type: ignore[arg-type]

        def backward(batch: Any, model: Any = model) -> None:
            dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p]
            assert dropouts
            assert not any(module.training for module in dropouts), "scores would tell of what was dropped"
            (summed_loss(model, batch, torch.device("cpu")) / batch.target_tokens).backward()

        before = _logits(model, batch.inputs)
        report = allocate_ranks(base, wanted, state, [batch], backward)
        optimized = [value for group in state.optimizer.param_groups for value in group["params"]]
        assert [id(value) for value in optimized] == [id(value) for value in trainable(state.model).values()]
        assert not state.optimizer.state
        changed[rank] = float((_logits(state.model, batch.inputs) - before).norm() / before.norm())
        assert report["spent_parameters"] == sum(value.numel() for value in trainable(state.model).values())
        assert report["spent_parameters"] <= report["budget_parameters"]
        assert sum(report["shares"].values()) == pytest.approx(1)
        spent = report["spent_parameters"] / report["budget_parameters"]
        assert sum(report["budget_shares"].values()) == pytest.approx(spent)
        assert {layer["rank"] for layer in report["layers"]} != {rank} or rank == 5
    assert changed[5] < 1e-4
    assert changed[2] > 1e-3


def test_a_run_allocates_goes_on_and_ends_with_a_stock_adapter(
    qwen3: Path, new_run: NewRun, allocating: TrainingSpec
) -> None:
    run = new_run("whole")
    train(run, allocating)
    assert isinstance(run.last, Completed)
    losses = run.series("loss")
    assert losses[6] < losses[1]
    told = [message.text for message in run.messages if isinstance(message, Log)]
    assert any("ranks allocated after 3 steps" in text for text in told)
    report = report_of(run)
    weights = load_file(run.folders.adapter / "adapter_model.safetensors")
    ranks = {layer["name"]: layer["rank"] for layer in report["layers"]}
    for name, rank in ranks.items():
        key = f"base_model.model.{name}.lora_A.weight"
        assert weights[key].shape[0] == rank if rank else key not in weights
    assert len(set(ranks.values())) > 1
    base = load_base_model(qwen3, QuantizationSpec())
    inputs = one_batch(base).inputs
    with AdapterSet(base, limit=1).active(str(run.folders.adapter)) as model:
        ours = _logits(model, inputs)
    stock = PeftModel.from_pretrained(load_base_model(qwen3, QuantizationSpec()).model, run.folders.adapter)
    assert torch.equal(_logits(stock, inputs), ours)
    # The scale is the one that the layers were trained with, whatever their rank.
    assert {module.scaling["default"] for module in stock.modules() if hasattr(module, "lora_A")} == {
        allocating.lora.alpha / 6
    }


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_broken_before_at_or_after_the_allocation_equals_one_that_was_not(
    new_run: NewRun, allocating: TrainingSpec, stop: int
) -> None:
    whole, broken = new_run("whole"), new_run("broken")
    train(whole, allocating)
    broken.stop_after = (stop, StopReason.DRAIN)
    train(broken, allocating)
    broken.stop_after = None
    train(broken, allocating)
    assert isinstance(broken.last, Completed)
    one, two = (load_file(run.folders.adapter / "adapter_model.safetensors") for run in (whole, broken))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert report_of(whole) == report_of(broken)


def test_a_warm_up_as_long_as_the_run_is_refused(new_run: NewRun, allocating: TrainingSpec) -> None:
    with pytest.raises(SpecError, match="not less than the 6 steps"):
        train(new_run(), allocating.with_overrides(["lora.rank_allocation.warmup_steps=6"]))


def test_a_least_rank_that_a_part_may_not_get_is_refused_before_the_warm_up(
    new_run: NewRun, allocating: TrainingSpec
) -> None:
    share = {"group": "vision", "max_share": 0.1}
    bounds = [f"lora.rank_allocation.shares={json.dumps([share])}", "lora.rank_allocation.min_rank=2"]
    run = new_run()
    with pytest.raises(SpecError, match="may get") as refused:
        train(run, allocating.with_overrides(bounds))
    assert refused.value.field == "lora.rank_allocation.shares"
    assert not run.series("loss")


def test_a_stop_in_the_warm_up_tells_of_its_rank(new_run: NewRun, allocating: TrainingSpec) -> None:
    run = new_run()
    run.stop_after = (1, StopReason.USER)
    train(run, allocating)
    told = [message.text for message in run.messages if isinstance(message, Log)]
    assert any(text.startswith("stopped in the warm-up: the adapter has rank 6 in every layer") for text in told)
    training = json.loads((run.folders.adapter / "reeltune_adapter.json").read_text())["training"]
    assert (training["ranks_differ_by_layer"], training["scale"]) == (False, allocating.lora.alpha / 6)


def _logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits
    assert isinstance(logits, torch.Tensor)
    return logits
