"""The report buffer against a scheduler that records each number once and whose acknowledgements may be lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.domain.report_buffer import ReportBuffer
from trainer_svc.domain.reports import LogLine, NumberedReport, Progress, Report

ADD_LINE, ADD_PROGRESS, SEND, ACKNOWLEDGE, BREAK = "line", "progress", "send", "acknowledge", "break"


class Recorder:
    """What the scheduler does: records a report once, by its number, and never two under one number."""

    def __init__(self) -> None:
        self.recorded: dict[int, Report] = {}

    def receive(self, sent: NumberedReport) -> None:
        assert sent.number <= len(self.recorded) + 1, "a number was skipped"
        assert self.recorded.setdefault(sent.number, sent.report) == sent.report, "a sent report changed"

    @property
    def in_order(self) -> list[Report]:
        return [self.recorded[number] for number in sorted(self.recorded)]


@given(
    actions=st.lists(st.sampled_from([ADD_LINE, ADD_PROGRESS, SEND, SEND, ACKNOWLEDGE, BREAK]), max_size=200),
    lost=st.lists(st.booleans(), max_size=50),
    window=st.integers(1, 5),
)
def test_nothing_but_progress_is_lost_and_order_is_kept(actions: list[str], lost: list[bool], window: int) -> None:
    buffer, recorder, added = ReportBuffer(window=window), Recorder(), []
    losses = iter(lost)

    def send() -> None:
        sent = buffer.take()
        # A break may cut what was sent: later reports of the same stream are then cut, too.
        if sent is not None and not is_cut:
            recorder.receive(sent)

    is_cut = False
    for number, action in enumerate(actions):
        if action in (ADD_LINE, ADD_PROGRESS):
            report = LogLine("info", str(number)) if action == ADD_LINE else Progress(step=number)
            added.append(report)
            buffer.add(report)
        elif action == SEND:
            is_cut = is_cut or next(losses, False)
            send()
        elif action == ACKNOWLEDGE:
            buffer.acknowledge(len(recorder.recorded))
        else:
            is_cut = False
            buffer.rewind()
    is_cut = False
    buffer.rewind()
    while not buffer.is_empty:
        send()
        buffer.acknowledge(len(recorder.recorded))

    kept = recorder.in_order
    assert [report for report in kept if isinstance(report, LogLine)] == [r for r in added if isinstance(r, LogLine)]
    # What is recorded is the added sequence without some progress reports, the newest of which is never missing.
    remaining = iter(added)
    assert all(any(report is candidate for candidate in remaining) for report in kept)
    progress = [report for report in added if isinstance(report, Progress)]
    if progress:
        assert kept[-1] is progress[-1] or progress[-1] in kept


def test_waiting_progress_is_replaced_in_the_newest_place() -> None:
    buffer = ReportBuffer()
    for report in (Progress(step=1), LogLine("info", "a"), Progress(step=2), LogLine("info", "b")):
        buffer.add(report)

    taken = [buffer.take() for _ in range(4)]

    assert taken == [
        NumberedReport(1, LogLine("info", "a")),
        NumberedReport(2, Progress(step=2)),
        NumberedReport(3, LogLine("info", "b")),
        None,
    ]


def test_sent_progress_is_sent_again_as_it_was() -> None:
    buffer = ReportBuffer()
    buffer.add(Progress(step=1))
    first = buffer.take()
    buffer.add(Progress(step=2))
    buffer.rewind()

    assert [buffer.take(), buffer.take()] == [first, NumberedReport(2, Progress(step=2))]


def test_acknowledged_reports_are_not_sent_again() -> None:
    buffer = ReportBuffer()
    for text in "abc":
        buffer.add(LogLine("info", text))
    for _ in range(3):
        buffer.take()
    buffer.acknowledge(2)
    buffer.rewind()

    assert buffer.take() == NumberedReport(3, LogLine("info", "c"))
    buffer.acknowledge(99)
    assert buffer.is_empty
    buffer.add(LogLine("info", "d"))
    assert buffer.take() == NumberedReport(4, LogLine("info", "d"))


def test_no_more_than_the_window_is_unacknowledged() -> None:
    buffer = ReportBuffer(capacity=4, window=2)
    for text in "abcd":
        buffer.add(LogLine("info", text))

    assert buffer.is_full
    assert [buffer.take() is None for _ in range(3)] == [False, False, True]
    buffer.acknowledge(1)
    assert buffer.take() == NumberedReport(3, LogLine("info", "c"))
    assert not buffer.is_full
