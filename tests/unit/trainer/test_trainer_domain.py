"""Pure rules: turns, eviction, paths, epochs, messages, deadlines."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.child.deadline import ProgressDeadline
from trainer_svc.domain.attempt import RemoteFile, fit_message
from trainer_svc.domain.backoff import Backoff
from trainer_svc.domain.device import Device, DeviceClass
from trainer_svc.domain.errors import ProbeFailedError, UnsafePathError
from trainer_svc.domain.fair_queue import FairQueue
from trainer_svc.domain.last_words import last_words
from trainer_svc.domain.materialisation import (
    CacheEntry,
    choose_evictions,
    folder_key,
    safe_path,
)
from trainer_svc.domain.reports import LogLine, Progress
from trainer_svc.domain.subscription import Subscription
from trainer_svc.qlora import messages
from trainer_svc.usecases.probe_device import device_from_json


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers()), max_size=40))
def test_clients_take_turns_and_each_keeps_its_order(tickets: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(100)
    for ticket in tickets:
        queue.add(ticket[0], ticket)
    served = [queue.next() for _ in range(len(queue))]

    assert queue.next() is None
    for client in "abc":
        assert [t for t in served if t and t[0] == client] == [t for t in tickets if t[0] == client]
    # Whoever has something waiting is served at least once in any three turns.
    for index in range(len(served) - 3):
        waiting = {t[0] for t in served[index:] if t}
        assert {t[0] for t in served[index : index + len(waiting)] if t} == waiting


def test_who_leaves_the_queue_is_not_served() -> None:
    queue: FairQueue[int] = FairQueue(2)
    queue.add("a", 1)
    queue.add("b", 2)

    assert queue.is_full
    assert queue.remove("a", 1)
    assert not queue.remove("a", 1)
    assert queue.next() == 2


@given(sizes=st.lists(st.integers(0, 100), max_size=20, unique=False), budget=st.integers(0, 1000), seed=st.integers())
def test_eviction_keeps_the_newest_within_the_budget(sizes: list[int], budget: int, seed: int) -> None:
    entries = [CacheEntry(str(index), size, float(index)) for index, size in enumerate(sizes)]
    random.Random(seed).shuffle(entries)

    evicted = choose_evictions(entries, budget_bytes=budget)

    assert evicted == [str(index) for index in range(len(evicted))]
    assert sum(sizes[len(evicted) :]) <= budget
    # No more than needed.
    assert not evicted or sum(sizes[len(evicted) - 1 :]) > budget


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\0b", "..\\x", "a/.."])
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(UnsafePathError):
        safe_path(path)


def test_paths_that_stay_are_kept() -> None:
    assert str(safe_path("a/b..c/.d.mp4")) == "a/b..c/.d.mp4"


def test_a_folders_key_depends_on_content_and_not_on_order() -> None:
    one, two = RemoteFile("a", 1, "11"), RemoteFile("b", 1, "22")

    assert folder_key([one, two]) == folder_key([two, one])
    assert folder_key([one]) != folder_key([RemoteFile("a", 1, "12")])
    assert folder_key([RemoteFile("a", 1, "11")]) != folder_key([RemoteFile("c", 1, "11")])


@given(st.text(max_size=2000))
def test_failure_messages_fit_their_field(text: str) -> None:
    fitted = fit_message(text)

    assert len(fitted.encode()) <= 1024
    assert fitted == text or fitted.endswith("…")


def test_text_that_is_no_unicode_is_made_so() -> None:
    assert fit_message("a\ud800b") == "a?b"


def test_last_words_hold_no_secret_and_no_path_of_this_machine() -> None:
    lines = [
        'File "/srv/venv/lib/python3.11/site-packages/torch/nn.py", line 3',
        "loading /data/jobs/j-1/model/config.json",
        "GET https://s3/x?X-Amz-Signature=abcdef&y=1 Bearer abcdefgh12345",
        "token: eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl password=hunter2",
        "",
    ]

    said = last_words(lines, {"/data/jobs/j-1": "<job>"})

    assert "<job>/model/config.json" in said
    assert "/srv" not in said
    assert "nn.py" in said
    for secret in ("abcdef&", "abcdefgh12345", "eyJ", "hunter2"):
        assert secret not in said
    assert len(last_words(["x" * 5000], {})) <= 600


def test_back_off_grows_to_its_ceiling_and_starts_again() -> None:
    backoff = Backoff(first=1, longest=8, random_source=random.Random(1))
    delays = [backoff.next_delay() for _ in range(6)]

    assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(delays, (1, 2, 4, 8, 8, 8), strict=True))
    backoff.reset()
    assert backoff.next_delay() <= 1


def test_a_slow_watcher_gets_the_newest_progress_and_bounded_lines() -> None:
    subscription = Subscription(capacity=3)
    for step in range(5):
        subscription.add(Progress(step=step))
    for text in "abcd":
        subscription.add(LogLine("info", text))

    assert [subscription.take() for _ in range(4)] == [*(LogLine("info", text) for text in "bcd"), None]


def test_breathing_moves_no_deadline_and_steps_do() -> None:
    now = 0.0
    deadline = ProgressDeadline(loading=100, training=10, clock=lambda: now)
    assert deadline.remaining == 100

    now = 90
    deadline.note(messages.Log("info", "still here"))
    assert deadline.remaining == 10
    deadline.note(messages.Starting("model"))
    assert (deadline.remaining, deadline.phase) == (100, "model")
    deadline.note(messages.Progress(1, 9, 0, 0.1))
    assert deadline.remaining == 10
    now += 5
    deadline.note(messages.Progress(2, 9, 0, 0.2))
    # A step took 5 s: one of 50 s is slow, and not stuck.
    assert deadline.remaining == 50
    now += 60
    assert deadline.remaining == -10


@pytest.mark.parametrize("output", ["", "no json", "{}", '{"device_class": "TPU"}', "[]"])
def test_a_probe_that_talks_nonsense_is_a_failed_probe(output: str) -> None:
    with pytest.raises(ProbeFailedError):
        device_from_json(output)


def test_a_cpu_is_as_many_devices_as_an_operator_wants_and_gpus_are_no_more_than_there_are() -> None:
    machine = Device(DeviceClass.CPU, "a processor", 8 * 10**9, True)
    assert machine.shared_by(0) == machine
    assert (machine.shared_by(2).device_count, machine.shared_by(2).memory_bytes) == (2, 4 * 10**9)
    rack = Device(DeviceClass.CUDA, "a rack", 24 * 10**9, True, device_count=4)
    assert [rack.shared_by(wanted).device_count for wanted in (0, 2, 9)] == [4, 2, 4]
    assert rack.shared_by(2).memory_bytes == rack.memory_bytes
