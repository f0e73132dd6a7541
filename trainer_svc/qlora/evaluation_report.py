"""From answers to a report: what the contract calls an `Evaluation`, and the same for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer_svc.qlora.after_training_spec import FRAME_ORDERS, Condition, EvaluationSpec
from trainer_svc.qlora.answer_metrics import NORMALIZATION, estimate, exact_match, rouge_l, token_f1

MEASURES = ("exact_match", "rouge_l", "token_f1")
_MOST_QUESTIONS = 20
_MOST_TAGS = 20
_CONTRACT = "EVALUATION_CONDITION_"
_WORDS = {
    Condition.BASE: "base",
    Condition.TUNED: "tuned",
    Condition.SHUFFLED_CLIPS: "tuned, clips of other rows",
    Condition.REVERSED_FRAMES: "tuned, frames reversed",
    Condition.SHUFFLED_FRAMES: "tuned, frames shuffled",
}
_NO_OTHER_CLIPS, _NO_ORDER = "no two rows show different clips", "no row shows more than one frame of a clip"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered under one condition, and what that is worth."""

    text: str
    exact_match: float
    rouge_l: float
    token_f1: float
    loss: float
    """Sum over the reference's tokens."""
    tokens: int
    """How many they are."""


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One row and what was answered to it; a condition that it could not be asked under is absent."""

    sample_id: str
    question: str
    reference: str
    answers: Mapping[Condition, Answer]
    tags: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `answers.jsonl` holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> AnsweredRow:
        answers = {Condition(name): Answer(**answer) for name, answer in value["answers"].items()}
        # Checkpoints from before there were tags have none.
        return cls(value["sample_id"], value["question"], value["reference"], answers, tuple(value.get("tags", ())))


def measured(text: str, reference: str, loss: tuple[float, int]) -> Answer:
    """An answer with its measures."""
    return Answer(
        text, exact_match(text, reference), rouge_l(text, reference), token_f1(text, reference), loss[0], loss[1]
    )


def build_report(
    rows: Sequence[AnsweredRow], wanted: EvaluationSpec, *, total_rows: int, notes: Sequence[str]
) -> dict[str, Any]:
    """The report of at least one row, in the fields of the contract's `Evaluation`."""
    told = [condition for condition in wanted.conditions if any(condition in row.answers for row in rows)]
    pairs = [(Condition.TUNED, Condition.BASE), *((Condition.TUNED, control) for control in told[2:])]
    lacking = [
        f"{_WORDS[condition]}: not asked, because {_NO_ORDER if condition in FRAME_ORDERS else _NO_OTHER_CLIPS}"
        for condition in wanted.conditions
        if condition not in told
    ]
    by_tag, tags_left_out = _by_tag(rows)
    if tags_left_out:
        lacking.append(
            f"{tags_left_out} more tags, of fewer rows, are not told apart; answers.jsonl has the tags of each row"
        )
    if total_rows > len(rows):
        lacking.append(f"stopped after {len(rows)} of {total_rows} rows")
    return {
        "split": wanted.split,
        "rows": len(rows),
        "total_rows": total_rows,
        "results": [_result(rows, condition, wanted.seed) for condition in told],
        "comparisons": [_comparison(rows, *pair, wanted.seed) for pair in pairs],
        "questions": list(_questions(rows, told)),
        "tags": [_tag(tag, group, told, wanted.seed) for tag, group in by_tag],
        "tags_left_out": tags_left_out,
        "notes": [*notes, *lacking],
        "normalization": NORMALIZATION,
    }


def report_card(report: Mapping[str, Any]) -> str:
    """Markdown: the table of results, what differs, and what must be known."""
    lines = [
        "# Evaluation",
        "",
        f"{report['rows']} of {report['total_rows']} rows of the split `{report['split']}`.",
        "In brackets: 95 % confidence intervals, by bootstrap over rows.",
        "",
        "| | rows | exact match | ROUGE-L | token F1 | loss |",
        "|---|---|---|---|---|---|",
    ]
    for result in report["results"]:
        measures = " | ".join(_shown(result[name]) for name in MEASURES)
        lines.append(f"| {_name(result['condition'])} | {result['rows']} | {measures} | {result['loss']:.4f} |")
    lines += ["", "| difference | exact match | ROUGE-L | token F1 |", "|---|---|---|---|"]
    for pair in report["comparisons"]:
        measures = " | ".join(_shown(pair[name], sign="+") for name in MEASURES)
        lines.append(f"| {_name(pair['condition'])} − {_name(pair['against'])} | {measures} |")
    lines += _tag_table(report)
    lines += ["", *(f"- {note}" for note in report["notes"]), f"- Answers are compared by: {report['normalization']}."]
    return "\n".join(lines) + "\n"


def _result(rows: Sequence[AnsweredRow], condition: Condition, seed: int) -> dict[str, Any]:
    answers = [row.answers[condition] for row in rows if condition in row.answers]
    return {
        "condition": _CONTRACT + condition,
        "rows": len(answers),
        **{name: asdict(estimate([getattr(each, name) for each in answers], seed)) for name in MEASURES},
        "loss": sum(each.loss for each in answers) / max(1, sum(each.tokens for each in answers)),
    }


def _comparison(rows: Sequence[AnsweredRow], one: Condition, other: Condition, seed: int) -> dict[str, Any]:
    both = [(row.answers[one], row.answers[other]) for row in rows if one in row.answers and other in row.answers]
    return {
        "condition": _CONTRACT + one,
        "against": _CONTRACT + other,
        **{
            name: asdict(estimate([getattr(mine, name) - getattr(theirs, name) for mine, theirs in both], seed))
            for name in MEASURES
        },
    }


def _questions(rows: Sequence[AnsweredRow], told: Sequence[Condition]) -> Iterator[dict[str, Any]]:
    """By question, where the same few are asked again and again."""
    asked: dict[str, list[AnsweredRow]] = defaultdict(list)
    for row in rows:
        asked[row.question].append(row)
    if len(asked) > min(_MOST_QUESTIONS, len(rows) / 2):
        return
    for question, group in sorted(asked.items()):
        means = []
        for condition in told:
            answers = [row.answers[condition].exact_match for row in group if condition in row.answers]
            means.append(sum(answers) / len(answers) if answers else 0.0)
        yield {"question": question, "rows": len(group), "exact_match": means}


def _by_tag(rows: Sequence[AnsweredRow]) -> tuple[list[tuple[str, list[AnsweredRow]]], int]:
    """The rows of each tag, most first, and how many tags are left out; last, under "", those without any tag."""
    tagged: dict[str, list[AnsweredRow]] = defaultdict(list)
    for row in rows:
        for tag in row.tags:
            tagged[tag].append(row)
    most_first = sorted(tagged.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    untagged = [row for row in rows if not row.tags]
    rest = [("", untagged)] if most_first and untagged else []
    return [*most_first[:_MOST_TAGS], *rest], max(0, len(most_first) - _MOST_TAGS)


def _tag(tag: str, rows: Sequence[AnsweredRow], told: Sequence[Condition], seed: int) -> dict[str, Any]:
    means = {
        name: [_mean([getattr(row.answers[each], name) for row in rows if each in row.answers]) for each in told]
        for name in MEASURES
    }
    gain = _comparison(rows, Condition.TUNED, Condition.BASE, seed)
    return {"tag": tag, "rows": len(rows), **means, "gain": gain}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _tag_table(report: Mapping[str, Any]) -> Iterator[str]:
    """Base and tuned model by tag; no line without tags."""
    if not report["tags"]:
        return
    yield ""
    yield "| tag | rows | exact match: base | tuned | difference | ROUGE-L: base | tuned | token F1: base | tuned |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for each in report["tags"]:
        # A tag may hold what ends a cell.
        name = f"`{each['tag'].replace('|', chr(92) + '|')}`" if each["tag"] else "(no tag)"
        exact, *others = ([f"{value:.3f}" for value in each[measure][:2]] for measure in MEASURES)
        cells = [name, str(each["rows"]), *exact, _shown(each["gain"]["exact_match"], sign="+"), *others[0], *others[1]]
        yield f"| {' | '.join(cells)} |"


def _name(condition: str) -> str:
    return _WORDS[Condition(condition.removeprefix(_CONTRACT))]


def _shown(value: Mapping[str, float], sign: str = "") -> str:
    return f"{value['mean']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"
