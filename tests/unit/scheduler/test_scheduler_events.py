"""Reports are recorded once, and progress is coalesced; events survive the database's JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reeltune.scheduler.v1 import attempt_service_pb2, job_event_pb2, training_job_pb2

from scheduler_svc.domain.errors import InvalidField
from scheduler_svc.domain.events import (
    CheckpointSaved,
    EventBody,
    LogLevel,
    LogLine,
    MetricPoint,
    Report,
    Started,
    StateChange,
    digest_reports,
)
from scheduler_svc.domain.job import JobState, Progress, StateReason, clean_text
from scheduler_svc.domain.predictions import Prediction, Predictions
from scheduler_svc.rpc.attempt_convert import progress_from_proto, reports_from_proto
from scheduler_svc.rpc.convert import event_to_proto
from scheduler_svc.store.rows import event_from_row, event_to_columns

NOW = datetime(2026, 11, 1, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
predictions = st.lists(st.builds(Prediction, texts, texts, texts, texts, st.floats(), st.booleans()), max_size=2).map(
    tuple
)
bodies = st.one_of(
    st.builds(Progress, phase=texts, step=st.integers(0, 10**9), loss=st.none() | st.floats()),
    st.builds(MetricPoint, st.integers(0, 10**9), st.dictionaries(texts, st.floats(), max_size=4)),
    st.builds(LogLine, st.sampled_from(LogLevel), texts),
    st.builds(CheckpointSaved, st.integers(0, 10**9), st.integers(0, 10**12)),
    st.builds(Predictions, st.integers(0, 10**9), predictions, predictions),
    st.builds(
        StateChange,
        st.none() | st.sampled_from(JobState),
        st.sampled_from(JobState),
        st.sampled_from(StateReason),
        texts,
    ),
)


@given(body=bodies)
def test_events_survive_the_database(body: EventBody) -> None:
    kind, level, text = event_to_columns(body)
    row = {"sequence": 3, "create_time": NOW, "attempt": 1, "kind": kind, "level": level, "body": json.loads(text)}
    event = event_from_row(row)
    assert repr(event.body) == repr(body)  # repr: NaN is not equal to itself
    message = event_to_proto(event)
    assert message.sequence == 3
    assert message.WhichOneof("event") == kind


@given(
    sizes=st.lists(st.integers(1, 5), max_size=8),
    resent=st.integers(0, 10),
    kinds=st.lists(st.sampled_from(["progress", "metrics", "log", "predictions"]), min_size=40, max_size=40),
)
def test_reports_are_recorded_once_however_often_they_are_sent(sizes: list[int], resent: int, kinds: list[str]) -> None:
    made = {
        "progress": lambda number: Progress(step=number),
        "metrics": lambda number: MetricPoint(number, {"loss": 1.0}),
        "log": lambda number: LogLine(LogLevel.INFO, str(number)),
        "predictions": lambda number: Predictions(number, (), ()),
    }
    reports = [Report(number + 1, made[kinds[number]](number + 1)) for number in range(sum(sizes))]
    recorded, stored, position = 0, [], 0
    for size in sizes:
        batch = reports[max(0, position - resent) : position + size]
        position += size
        digest = digest_reports(batch, recorded, Progress())
        recorded = digest.last_number
        stored.extend(digest.bodies)
        again = digest_reports(batch, recorded, Progress())
        assert (again.bodies, again.last_number) == ((), recorded)
    kept = [body for body in stored if not isinstance(body, Progress)]
    assert kept == [report.body for report in reports if not isinstance(report.body, Progress)]
    assert recorded == len(reports)
    steps = [body.step for body in stored if isinstance(body, Progress)]
    assert steps == sorted(steps)


def test_the_first_step_keeps_the_progress_and_tells_the_total() -> None:
    digest = digest_reports([Report(4, Started(90))], 3, Progress(phase="loading model"))
    assert digest.has_started
    assert digest.progress == Progress(phase="loading model", total_steps=90)


async def test_trainers_words_are_made_fit_for_the_database() -> None:
    async def requests():  # type: ignore[no-untyped-def]
        yield attempt_service_pb2.AttachRequest()
        log = job_event_pb2.LogLine(level=99, text="a\0b" + "ü" * 4000)  # type: ignore[arg-type]
        yield attempt_service_pb2.AttachRequest(report=1, log=log)
        yield attempt_service_pb2.AttachRequest(log=log)

    stream = reports_from_proto(requests())
    assert await anext(stream) is None
    report = await anext(stream)
    assert report is not None
    assert isinstance(report.body, LogLine)
    assert report.body.level is LogLevel.INFO
    assert report.body.text.startswith("a\N{REPLACEMENT CHARACTER}bü")
    assert len(report.body.text.encode()) <= 4096
    with pytest.raises(InvalidField, match="report"):
        await anext(stream)


def test_figures_out_of_range_are_brought_into_it() -> None:
    message = training_job_pb2.JobProgress(step=-1, fraction=math.nan, epoch=math.inf, loss=math.nan)
    progress = progress_from_proto(message)
    assert (progress.step, progress.fraction, progress.epoch) == (0, 0, 0)
    assert progress.loss is not None
    assert math.isnan(progress.loss)


@given(text=st.text(), limit=st.integers(0, 50))
def test_clean_text_always_fits(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit)
    assert len(cleaned.encode()) <= limit
    assert "\0" not in cleaned
