from __future__ import annotations

import io

from reeltune.trainer.v1 import inference_service_pb2 as pb
from rich.console import Console

from reeltune_cli.answers_view import BOTH, AnswersView, Who


def said(*pieces: tuple[Who, str], terminal: bool, responders: tuple[Who, ...] = BOTH) -> str:
    output = io.StringIO()
    view = AnswersView(Console(file=output, force_terminal=terminal, width=60, color_system=None), responders)
    with view.shown():
        for who, text in pieces:
            view.add(who, text)
    return output.getvalue()


def test_two_answers_stand_side_by_side_on_a_terminal() -> None:
    pieces = [
        (pb.RESPONDER_BASE, "In the clip"),
        (pb.RESPONDER_TUNED, "red"),
        (pb.RESPONDER_BASE, " there is"),
    ]

    last = said(*pieces, terminal=True).splitlines()[-2:]

    assert last[0].split()[-1] == "tuned"
    assert "base" in last[0]
    assert [part.strip() for part in last[1].split("  ") if part.strip()] == ["In the clip there is", "red"]


def test_two_answers_come_one_under_the_other_in_a_pipe() -> None:
    pieces = [(pb.RESPONDER_BASE, "a [bold]b"), (pb.RESPONDER_TUNED, "x"), (pb.RESPONDER_BASE, " c")]

    assert said(*pieces, terminal=False) == "base: a [bold]b c\ntuned: x\n"


def test_one_answer_is_running_text_without_what_steers_a_terminal() -> None:
    pieces = [(pb.RESPONDER_TUNED, "re\x1b[2J"), (pb.RESPONDER_TUNED, "d")]

    assert said(*pieces, terminal=False, responders=(pb.RESPONDER_TUNED,)) == "re\N{REPLACEMENT CHARACTER}[2Jd\n"
