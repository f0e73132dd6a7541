from __future__ import annotations

import subprocess
import sys

import pytest

from trainer_svc.qlora.spec import SpecError, TrainingSpec
from trainer_svc.rehearsal.files import next_digest
from trainer_svc.rehearsal.spec import MisbehaviorKind, RehearsalSpec


def spec(**own: object) -> RehearsalSpec:
    return RehearsalSpec.from_dict({**TrainingSpec().to_dict(), "rehearsal": own})


def test_a_rehearsal_has_the_fields_of_a_training_and_its_own() -> None:
    read = RehearsalSpec.from_dict(
        {"checkpoint_every_steps": 7, "optimization": {"max_steps": 30}, "rehearsal": {"step_milliseconds": 5}}
    )

    assert (read.training.checkpoint_every_steps, read.training.optimization.max_steps) == (7, 30)
    assert (read.step_milliseconds, read.misbehaviors) == (5, ())


def test_misbehavior_is_due_at_its_step_of_the_first_attempts() -> None:
    orders = [
        {"kind": "CRASH", "at_step": 3, "attempts": 2},
        {"kind": "HANG", "at_step": 3},
        {"kind": "EXIT", "at_step": 0},
    ]

    assert spec(attempt=2, misbehaviors=orders).due(3) == [MisbehaviorKind.CRASH, MisbehaviorKind.HANG]
    assert spec(attempt=3, misbehaviors=orders).due(3) == [MisbehaviorKind.HANG]
    assert spec(attempt=3, misbehaviors=orders).due(0) == [MisbehaviorKind.EXIT]
    assert spec(attempt=3, misbehaviors=orders).due(2) == []


@pytest.mark.parametrize("own", [{"speed": 3}, {"misbehaviors": [{"kind": "SULK"}]}, {"misbehaviors": [{}]}])
def test_what_it_does_not_know_it_refuses(own: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="rehearsal"):
        spec(**own)


def test_the_state_tells_the_steps_that_were_made_and_their_order() -> None:
    def after(*steps: int) -> bytes:
        digest = b""
        for step in steps:
            digest = next_digest(digest, step)
        return digest

    assert after(1, 2, 3) == next_digest(after(1, 2), 3)
    assert len({after(1, 2, 3), after(1, 3), after(2, 1, 3), after(1, 2)}) == 4


def test_its_process_needs_nothing_but_the_standard_library() -> None:
    """What it does not load it need not wait for: a rehearsal starts in a tenth of a second."""
    code = (
        "import sys\nfrom trainer_svc.rehearsal import child\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)"
        " - {'trainer_svc', '__main__', '__mp_main__'}), 'asyncio' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": "."},
    )
    assert result.stdout.strip() == "[] False"
