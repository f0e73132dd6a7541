"""Reports of evaluations by tag."""

from __future__ import annotations

import json

from google.protobuf import json_format
from reeltune.scheduler.v1 import evaluation_pb2

from trainer_svc.qlora.after_training_spec import Condition, EvaluationSpec
from trainer_svc.qlora.evaluation_report import AnsweredRow, build_report, measured, report_card

WANTED = EvaluationSpec(controls=())


def answered(number: int, *tags: str, base: str = "left", tuned: str = "right") -> AnsweredRow:
    """A row whose right answer is "right"."""
    said = {Condition.BASE: base, Condition.TUNED: tuned}
    answers = {condition: measured(text, "right", (1.0, 1)) for condition, text in said.items()}
    return AnsweredRow(f"s{number}", f"Where is {number}?", "right", answers, tags)


def test_each_tag_is_told_by_itself_and_rows_without_any_come_last() -> None:
    rows = [
        answered(0, "easy", "sport", base="right"),
        answered(1, "easy"),
        answered(2, "hard | odd", tuned="left"),
        answered(3),
    ]
    report = build_report(rows, WANTED, total_rows=4, notes=[])
    told = {each["tag"]: (each["rows"], each["exact_match"], each["token_f1"]) for each in report["tags"]}
    assert list(told) == ["easy", "hard | odd", "sport", ""]
    assert told["easy"] == (2, [0.5, 1.0], [0.5, 1.0])
    assert told["hard | odd"] == (1, [0.0, 0.0], [0.0, 0.0])
    assert told[""] == (1, [0.0, 1.0], [0.0, 1.0])
    assert report["tags"][0]["gain"]["exact_match"]["mean"] == 0.5
    assert report["tags_left_out"] == 0
    parsed = json_format.ParseDict(report, evaluation_pb2.Evaluation())
    assert (parsed.tags[0].tag, list(parsed.tags[0].rouge_l)) == ("easy", [0.5, 1.0])
    card = report_card(report)
    assert "| `easy` | 2 | 0.500 | 1.000 | +0.500 [" in card
    assert "| `hard \\| odd` | 1 |" in card
    assert "| (no tag) | 1 |" in card


def test_no_tags_make_no_table() -> None:
    report = build_report([answered(0), answered(1)], WANTED, total_rows=2, notes=[])
    assert (report["tags"], report["tags_left_out"]) == ([], 0)
    assert "tag" not in report_card(report)


def test_many_tags_are_bounded_and_the_rest_is_told() -> None:
    rows = [answered(number, f"t{number:03d}", "all") for number in range(100)]
    report = build_report(rows, WANTED, total_rows=100, notes=[])
    assert [each["tag"] for each in report["tags"]] == ["all", *(f"t{number:03d}" for number in range(19))]
    assert report["tags_left_out"] == 81
    assert any("81 more tags" in note for note in report["notes"])


def test_a_row_keeps_its_tags_in_a_checkpoint_and_older_ones_have_none() -> None:
    row = answered(0, "easy")
    kept = json.loads(json.dumps(row.to_dict()))
    assert AnsweredRow.from_dict(kept) == row
    del kept["tags"]
    assert AnsweredRow.from_dict(kept).tags == ()
