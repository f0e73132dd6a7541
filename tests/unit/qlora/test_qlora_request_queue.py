from __future__ import annotations

import threading

from trainer_svc.qlora.messages import Generate
from trainer_svc.qlora.request_queue import MAX_WAITING, RequestQueue


def request(name: str, client: str = "a") -> Generate:
    return Generate(name, "?", client=client)


def taken(queue: RequestQueue, count: int) -> list[str]:
    return [entry.request_id for _ in range(count) if (entry := queue.take())]


def test_clients_take_turns_however_many_requests_one_has() -> None:
    queue = RequestQueue()
    for name in ("a1", "a2", "a3", "a4"):
        queue.put(request(name, "a"))
    queue.put(request("b1", "b"))
    queue.put(request("c1", "c"))
    queue.put(request("b2", "b"))
    assert taken(queue, 7) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_waiting_request_is_cancelled_at_once() -> None:
    queue = RequestQueue()
    queue.put(request("a1"))
    queue.put(request("a2"))
    assert queue.cancel("a1")
    assert not queue.cancel("unknown")
    assert taken(queue, 1) == ["a2"]


def test_the_running_request_is_told() -> None:
    queue = RequestQueue()
    queue.put(request("a1"))
    queue.put(request("a2"))
    queue.take()
    assert not queue.running_cancelled()
    assert not queue.cancel("a1")
    assert queue.running_cancelled()
    queue.take()
    assert not queue.running_cancelled()


def test_closing_serves_what_waits_and_takes_no_more() -> None:
    queue = RequestQueue()
    queue.put(request("a1"))
    queue.close()
    assert not queue.put(request("a2"))
    assert taken(queue, 1) == ["a1"]
    assert queue.take() is None


def test_abandoning_ends_a_thread_that_waits() -> None:
    queue = RequestQueue()
    results: list[Generate | None] = []
    thread = threading.Thread(target=lambda: results.append(queue.take()))
    thread.start()
    queue.close(abandon=True)
    thread.join(timeout=60)
    assert results == [None]
    assert queue.running_cancelled()


def test_waiting_requests_are_bounded() -> None:
    queue = RequestQueue()
    assert all(queue.put(request(str(index))) for index in range(MAX_WAITING))
    assert not queue.put(request("one more"))
