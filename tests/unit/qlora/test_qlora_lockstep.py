from __future__ import annotations

import pytest

from trainer_svc.qlora.lockstep import Lockstep, PassOn


def test_works_take_one_step_each_in_turn_until_each_has_ended() -> None:
    said: list[str] = []
    handovers: list[str] = []
    steps: Lockstep[int] = Lockstep(
        lambda index: handovers.append(f"+{index}"), lambda index: handovers.append(f"-{index}")
    )

    def work(name: str, count: int, pass_on: PassOn) -> int:
        for number in range(count):
            said.append(f"{name}{number}")
            pass_on()
        return count

    results = steps.run([lambda on: work("a", 2, on), lambda on: work("b", 4, on), lambda on: work("c", 1, on)])

    assert results == [2, 4, 1]
    assert said == ["a0", "b0", "c0", "a1", "b1", "b2", "b3"]
    assert handovers[:6] == ["+0", "-0", "+1", "-1", "+2", "-2"]


def test_a_failure_ends_the_others_and_is_the_one_that_is_raised() -> None:
    said: list[str] = []
    steps: Lockstep[None] = Lockstep(lambda _: None, lambda _: None)

    def fail(pass_on: PassOn) -> None:
        pass_on()
        raise ValueError("why")

    def go_on(pass_on: PassOn) -> None:
        while True:
            said.append("step")
            pass_on()

    with pytest.raises(ValueError, match="why"):
        steps.run([go_on, fail, go_on])
    assert len(said) <= 4
