"""Evaluations of a really trained adapter: what they find, and that nothing of it is lost or done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from child_processes import started
from google.protobuf import json_format
from recording_run import RecordingRun
from reeltune.scheduler.v1 import evaluation_pb2
from tiny_models import write_dataset

from trainer_svc.qlora.after_training_spec import FRAME_ORDERS, Condition, EvaluationSpec
from trainer_svc.qlora.errors import BadDataError, CheckpointMismatchError
from trainer_svc.qlora.evaluate import evaluate
from trainer_svc.qlora.launch import after_training_command
from trainer_svc.qlora.messages import CheckpointSaved, Completed, Log, Metrics, Progress, Started, Stopped, StopReason
from trainer_svc.qlora.spec import TrainingSpec

Runs = Callable[..., RecordingRun]
WANTED = EvaluationSpec(max_new_tokens=8)
ROWS = 8


@pytest.fixture
def asked(spec: TrainingSpec) -> TrainingSpec:
    return spec.with_overrides(["checkpoint_every_steps=2"])


def report_of(run: RecordingRun) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run.folders.out / "artifact" / "evaluation.json").read_text())
    return report


def tagged(dataset: Path, folder: Path) -> Path:
    """The dataset, its first row with two tags, its last one with none."""
    shutil.copytree(dataset, folder)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").open(encoding="utf-8")]
    for number, row in enumerate(rows[:-1]):
        row["tags"] = ["colour"] if number else ["colour", "first"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def exact(report: dict[str, Any]) -> dict[str, float]:
    return {
        result["condition"].removeprefix("EVALUATION_CONDITION_"): result["exact_match"]["mean"]
        for result in report["results"]
    }


def test_it_finds_what_was_learned_and_that_it_comes_from_the_video(
    new_run: Runs, colour_adapter: Path, asked: TrainingSpec, dataset: Path, tmp_path: Path
) -> None:
    run = new_run(data=tagged(dataset, tmp_path / "tagged"))
    evaluate(run, asked, WANTED, colour_adapter)

    assert isinstance(run.last, Completed)
    assert run.last.adapter_dir == str(run.folders.out / "artifact")
    assert {file["path"] for file in run.last.manifest["files"]} == {"answers.jsonl", "evaluation.json", "README.md"}
    report = report_of(run)
    found = exact(report)
    assert (found["BASE"], found["TUNED"]) == (0.0, 1.0)
    assert found["SHUFFLED_CLIPS"] <= 0.75, "a red clip's row with a blue clip"
    assert found.keys() == {*Condition}
    losses = {result["condition"]: result["loss"] for result in report["results"]}
    assert losses["EVALUATION_CONDITION_TUNED"] < losses["EVALUATION_CONDITION_BASE"]
    better, *_ = report["comparisons"]
    assert (better["condition"], better["against"]) == ("EVALUATION_CONDITION_TUNED", "EVALUATION_CONDITION_BASE")
    assert better["exact_match"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert [(each["question"], each["rows"]) for each in report["questions"]] == [("colour?", ROWS)]
    assert [(each["tag"], each["rows"], each["exact_match"][:2]) for each in report["tags"]] == [
        ("colour", ROWS - 1, [0.0, 1.0]), ("first", 1, [0.0, 1.0]), ("", 1, [0.0, 1.0])
    ]  # fmt: skip
    assert run.series("tuned_exact_match")[ROWS] == 1.0

    # The report is the contract's message, field by field.
    parsed = json_format.ParseDict(report, evaluation_pb2.Evaluation())
    assert (parsed.rows, parsed.total_rows, len(parsed.results)) == (ROWS, ROWS, 5)
    card = (run.folders.out / "artifact" / "README.md").read_text()
    assert "| tuned | 8 | 1.000 [1.000, 1.000]" in card


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_broken_evaluation_finds_the_same_and_asks_nothing_twice(
    new_run: Runs, colour_adapter: Path, asked: TrainingSpec, temperature: float
) -> None:
    wanted = replace(WANTED, temperature=temperature, controls=(Condition.SHUFFLED_CLIPS, Condition.SHUFFLED_FRAMES))
    whole = new_run("whole")
    evaluate(whole, asked, wanted, colour_adapter)
    broken = new_run("broken")
    broken.stop_after = 3, StopReason.DRAIN
    evaluate(broken, asked, wanted, colour_adapter)
    assert isinstance(broken.last, Stopped)
    assert broken.last.adapter_dir is None
    assert broken.last.checkpoint

    again = new_run("broken")
    evaluate(again, asked, wanted, colour_adapter)

    asked_rows = [message.step for message in again.messages if isinstance(message, Progress)]
    assert asked_rows == list(range(4, ROWS + 1))
    assert [message.start_step for message in again.messages if isinstance(message, Started)] == [3]
    for name in ("answers.jsonl", "evaluation.json"):
        assert (again.folders.out / "artifact" / name).read_bytes() == (
            whole.folders.out / "artifact" / name
        ).read_bytes(), name


def test_a_stop_is_heard_between_two_tokens_and_the_row_is_asked_again(
    new_run: Runs, colour_adapter: Path, asked: TrainingSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer_svc.qlora.lookout.SIGN_SECONDS", 0.0)
    wanted = replace(WANTED, temperature=1.0, controls=())
    whole, broken = new_run("whole"), new_run("broken")
    evaluate(whole, asked, wanted, colour_adapter)
    # Each row has more tokens than that.
    broken.stop_after, broken.stop_at_look = (0, StopReason.DRAIN), 3
    evaluate(broken, asked, wanted, colour_adapter)
    assert broken.last == Stopped(StopReason.DRAIN, 0, None, None, None)
    broken.looks, broken.stop_after = 0, (2, StopReason.DRAIN)
    evaluate(broken, asked, wanted, colour_adapter)
    assert isinstance(broken.last, Stopped)
    assert broken.last.step == 2
    assert broken.looks < 8

    evaluate(again := new_run("broken"), asked, wanted, colour_adapter)
    assert (again.folders.out / "artifact" / "answers.jsonl").read_bytes() == (
        whole.folders.out / "artifact" / "answers.jsonl"
    ).read_bytes()
    shown = [message.step for message in again.messages if isinstance(message, Progress)]
    assert sorted(shown) == shown
    assert len(shown) > 2 * (ROWS - 2), "tokens show progress"


def test_a_stopped_evaluation_tells_what_it_has(new_run: Runs, colour_adapter: Path, asked: TrainingSpec) -> None:
    run = new_run()
    run.stop_after = 2, StopReason.USER
    evaluate(run, asked, replace(WANTED, controls=()), colour_adapter)

    assert isinstance(run.last, Stopped)
    assert run.last.adapter_dir
    report = report_of(run)
    assert (report["rows"], report["total_rows"], set(exact(report))) == (2, ROWS, {"BASE", "TUNED"})
    assert report["notes"] == ["stopped after 2 of 8 rows"]


def test_answers_of_another_adapter_are_not_gone_on_from(
    new_run: Runs, colour_adapter: Path, asked: TrainingSpec, tmp_path: Path
) -> None:
    run = new_run()
    run.stop_after = 2, StopReason.DRAIN
    evaluate(run, asked, WANTED, colour_adapter)
    other = shutil.copytree(colour_adapter, tmp_path / "other")
    weights = other / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    with pytest.raises(CheckpointMismatchError, match="adapter"):
        evaluate(new_run(), asked, WANTED, other)


def test_one_clip_has_no_other_to_be_confused_with(
    new_run: Runs, colour_adapter: Path, asked: TrainingSpec, tmp_path: Path
) -> None:
    run = new_run(data=write_dataset(tmp_path / "single", samples=1))
    evaluate(run, asked, replace(WANTED, controls=(Condition.SHUFFLED_CLIPS,), split="train"), colour_adapter)

    report = report_of(run)
    assert set(exact(report)) == {"BASE", "TUNED"}
    assert len(report["notes"]) == 2
    assert "may have been trained on" in report["notes"][0]
    assert "not asked" in report["notes"][1]


def test_one_frame_has_no_order_to_lose(new_run: Runs, colour_adapter: Path, asked: TrainingSpec) -> None:
    run = new_run()
    single = asked.with_overrides(["sampling.max_frames=1", "sampling.min_frames=1"])
    evaluate(run, single, replace(WANTED, controls=FRAME_ORDERS, split="test"), colour_adapter)

    report = report_of(run)
    assert set(exact(report)) == {"BASE", "TUNED"}
    assert [note.partition(": ")[2] for note in report["notes"]] == [
        "not asked, because no row shows more than one frame of a clip"
    ] * 2


def test_a_folder_without_an_adapter_is_refused(new_run: Runs, asked: TrainingSpec, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="holds no adapter"):
        evaluate(new_run(), asked, WANTED, tmp_path)


def test_a_killed_child_costs_the_rows_since_its_checkpoint(
    job: Callable[[TrainingSpec], Path], colour_adapter: Path, asked: TrainingSpec, tmp_path: Path
) -> None:
    folder = job(asked)
    shutil.copytree(colour_adapter, folder / "source")
    content = json.loads((folder / "spec.json").read_text())
    content["evaluation"] = {"max_new_tokens": 4, "controls": []}
    (folder / "spec.json").write_text(json.dumps(content))

    with started(lambda fd: after_training_command(folder, fd), tmp_path / "first") as child:
        saved = child.read_kind(CheckpointSaved)
        child.process.kill()
    with started(lambda fd: after_training_command(folder, fd), tmp_path / "second") as child:
        assert child.finish() == 0, child.stderr
        rows = [message.step for message in child.messages if isinstance(message, Progress)]
        assert rows[0] in (saved.step + 1, saved.step + 3)
        assert rows[-1] == ROWS
        assert isinstance(child.messages[-1], Completed)
        assert any(isinstance(message, Metrics) for message in child.messages)
        assert any(isinstance(message, Log) and "going on" in message.text for message in child.messages)
