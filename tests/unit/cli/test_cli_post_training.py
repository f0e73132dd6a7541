"""How evaluations and merges look on a terminal."""

from __future__ import annotations

from google.protobuf import json_format
from reeltune.scheduler.v1 import evaluation_pb2, merge_pb2
from rich.console import Console, RenderableType

from reeltune_cli.commands.post_training import _evaluation_view, _merge_view


def lines(view: RenderableType) -> list[list[str]]:
    """The words of each line."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(view)
    return [line.split() for line in captured.get().splitlines()]


def estimate(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def test_an_evaluation_tells_base_tuned_and_what_the_video_is_worth() -> None:
    measures = ("exact_match", "rouge_l", "token_f1")
    conditions = {"BASE": 0.0, "TUNED": 0.75, "SHUFFLED_CLIPS": 0.25}
    found = json_format.ParseDict(
        {
            "rows": 8,
            "total_rows": 9,
            "split": "test",
            "results": [
                {
                    "condition": f"EVALUATION_CONDITION_{name}",
                    "rows": 8,
                    "loss": 1.5,
                    **{measure: estimate(mean, 0, 1) for measure in measures},
                }
                for name, mean in conditions.items()
            ],
            "comparisons": [
                {
                    "condition": "EVALUATION_CONDITION_TUNED",
                    "against": "EVALUATION_CONDITION_SHUFFLED_CLIPS",
                    **{measure: estimate(0.5, -0.1, 0.9) for measure in measures},
                }
            ],
            "questions": [{"question": "Which colour?", "rows": 8, "exact_match": [0, 0.75, 0.25]}],
            "tags": [
                {
                    "tag": tag,
                    "rows": 4,
                    **{measure: [0, 0.75, 0.25] for measure in measures},
                    "gain": {measure: estimate(0.75, 0.5, 0.9) for measure in measures},
                }
                for tag in ("who is where", "")
            ],
            "notes": ["stopped after 8 of 9 rows"],
        },
        evaluation_pb2.Evaluation(),
    )

    shown = lines(_evaluation_view(found))

    assert ["rows", "8", "of", "9,", "split", "test"] in shown
    assert ["tuned", "8", *(["0.750", "[0.000,", "1.000]"] * 3), "1.5000"] in shown
    assert ["tuned", "-", "shuffled", "clips", *(["+0.500", "[-0.100,", "+0.900]"] * 3)] in shown
    assert ["Which", "colour?", "8", "0.000", "0.750", "0.250"] in shown
    gained = ["+0.750", "[+0.500,", "+0.900]"] * 3
    assert ["who", "is", "where", "4", *gained] in shown
    assert ["(no", "tag)", "4", *gained] in shown
    assert shown.count(["who", "is", "where", "4", "0.000", "0.750", "0.250"]) == len(measures)
    assert ["note", "stopped", "after", "8", "of", "9", "rows"] in shown


def test_a_merge_tells_how_near_it_is() -> None:
    made = merge_pb2.Merge(
        job_id="job_1",
        weights=merge_pb2.MERGE_WEIGHTS_ORIGINAL,
        update_error=0.81,
        adapter_agreement=0.5,
        notes=["beware"],
    )

    shown = lines(_merge_view(made))

    assert ["into", "original", "weights,", "bf16"] in shown
    assert ["error", "of", "the", "update", "0.8100"] in shown
    assert ["tokens", "as", "with", "adapter", "50.0%"] in shown
    assert ["note", "beware"] in shown
