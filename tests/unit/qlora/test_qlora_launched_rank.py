from __future__ import annotations

import pytest

from trainer_svc.qlora.launched_rank import LaunchedRank
from trainer_svc.qlora.rank_group import launched_environment
from trainer_svc.qlora.spec import SpecError, TrainingSpec

STARTED = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_a_rank_is_what_torchrun_says_of_it() -> None:
    assert LaunchedRank.found(STARTED) == LaunchedRank(rank=3, local_rank=1, count=4)
    assert LaunchedRank.found({**STARTED, "RANK": "0", "WORLD_SIZE": "1"}) is None, "it is alone"


@pytest.mark.parametrize("missing", STARTED)
def test_half_a_contract_is_none(missing: str) -> None:
    assert LaunchedRank.found({name: value for name, value in STARTED.items() if name != missing}) is None


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": ""}])
def test_what_names_no_rank_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="name no rank"):
        LaunchedRank.found({**STARTED, **wrong})


def test_as_many_devices_are_in_force_as_ranks_were_started() -> None:
    launched = LaunchedRank(0, 0, 4)
    assert launched.fit(TrainingSpec()).runtime.devices == 4
    four = TrainingSpec().with_overrides(["runtime.devices=4"])
    assert launched.fit(four) == four
    with pytest.raises(SpecError, match="is 2, and 4 ranks were started"):
        launched.fit(TrainingSpec().with_overrides(["runtime.devices=2"]))


@pytest.mark.parametrize(
    ("visible", "local_rank", "taken"),
    [
        (None, 1, "1"),
        ("4,7", 0, "4"),
        ("4,7", 1, "7"),
        # Its own device alone is shown to it.
        ("4", 0, "4"),
        ("7", 1, "7"),
        ("GPU-8f2c", 3, "GPU-8f2c"),
        # None, so that it trains on the processor.
        ("", 0, ""),
        ("", 1, ""),
    ],
)
def test_a_rank_takes_its_device_of_those_that_it_is_shown(visible: str | None, local_rank: int, taken: str) -> None:
    inherited = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    environment = inherited | launched_environment(local_rank, inherited)
    assert environment == {"CUDA_VISIBLE_DEVICES": taken}
