from __future__ import annotations

import threading

from trainer_svc.qlora.messages import Generate
from trainer_svc.qlora.request_queue import RequestQueue


def filled(*names: str) -> RequestQueue:
    queue = RequestQueue()
    for name in names:
        queue.put(Generate(name, "?"))
    return queue


def test_requests_are_taken_in_their_order() -> None:
    queue = filled("a", "b")
    assert [queue.take(), queue.take()] == [Generate("a", "?"), Generate("b", "?")]


def test_a_request_is_told_that_it_is_cancelled_whether_it_waits_or_runs() -> None:
    queue = filled("a", "b")
    queue.cancel("b")
    queue.take()
    assert not queue.is_cancelled("a")
    queue.cancel("a")
    assert queue.is_cancelled("a")
    queue.take()
    assert queue.is_cancelled("b")


def test_closing_ends_the_running_request_and_drops_those_that_wait() -> None:
    queue = filled("a", "b")
    queue.take()
    queue.close()
    assert queue.is_cancelled("a")
    assert queue.take() is None
    assert queue.take() is None


def test_closing_wakes_who_waits() -> None:
    queue, taken = RequestQueue(), list[Generate | None]()
    waiting = threading.Thread(target=lambda: taken.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(60)
    assert taken == [None]
