from __future__ import annotations

import io
from datetime import timedelta

import grpc
import pytest
from reeltune.scheduler.v1 import training_job_pb2
from rich.console import Console

from meshkit.rpc.failure import Failure
from reeltune_cli.bars import transfer_bars
from reeltune_cli.client.errors import describe_failure
from reeltune_cli.commands.job_view import dataset_words, job_facts
from reeltune_cli.invocation import printable
from reeltune_cli.tables import columns, enum_word, size


def rendered(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=120, markup=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_names_cannot_steer_the_terminal_or_the_markup() -> None:
    assert printable("a\x1b[31mb\x07") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}"
    text = rendered(columns(("NAME",), [("[bold]x[/bold]\x1b]0;title\x07",)]))
    assert "[bold]x[/bold]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1200, "1.2 KB"), (1_500_000, "1.5 MB"), (3e15, "3000.0 TB")]
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert size(size_bytes) == text


def test_enum_values_of_a_newer_mesh_are_shown_by_number() -> None:
    assert enum_word(training_job_pb2.JobState, training_job_pb2.JOB_STATE_RUNNING, "JOB_STATE_") == "running"
    assert enum_word(training_job_pb2.JobState, 99, "JOB_STATE_") == "99"


def test_a_job_is_shown_with_its_parameters_as_they_are_set() -> None:
    job = training_job_pb2.TrainingJob(id="job_1", state=training_job_pb2.JOB_STATE_QUEUED)
    job.parameters.lora.rank = 8
    text = rendered(job_facts(job, with_parameters=True))
    assert "lora.rank" in text
    assert "queued" in text
    assert "lora.rank" not in rendered(job_facts(job))


def test_failures_say_what_to_do_next() -> None:
    unreachable = describe_failure(
        Failure(grpc.StatusCode.UNAVAILABLE, "RPC_UNAVAILABLE", "x; Connection refused (111)")
    )
    assert "Connection refused" in unreachable.message
    assert "reeltune up" in unreachable.next_step
    busy = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "SIGN_IN_BUSY", "busy", retry_after=timedelta(seconds=2))
    assert describe_failure(busy).next_step == "try again in 2 s"
    killed = Failure(grpc.StatusCode.INTERNAL, "RPC_INTERNAL", "Stream removed (RST_STREAM with error code 2)")
    assert "RST_STREAM" not in describe_failure(killed).message
    assert "ask again" in describe_failure(killed).next_step


def test_bars_follow_several_files_at_once() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with transfer_bars(console, "uploaded") as bars:
        bars.begin(2, 30)
        bars.begin_file("a", 10)
        bars.begin_file("b", 20)
        bars.advance("b", 20)
        bars.advance("a", 10)
        bars.advance("a", -10)
        bars.advance("a", 10)
        bars.end_file("a")
        bars.end_file("b")
    assert isinstance(console.file, io.StringIO)
    assert "uploaded 2/2 files" in console.file.getvalue()


def test_a_job_tells_the_version_of_its_dataset_where_it_is_known() -> None:
    assert dataset_words("ds_1", 3) == "ds_1, version 3"
    assert dataset_words("ds_1", 0) == "ds_1"
