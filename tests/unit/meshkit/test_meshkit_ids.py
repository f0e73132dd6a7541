"""Ids: form, order, uniqueness."""

from __future__ import annotations

import os
import re
import threading
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import ids
from meshkit.ids import is_id, new_id


@given(st.from_regex(r"[a-z]{2,8}", fullmatch=True))
def test_every_id_has_its_prefix_and_26_characters(prefix: str) -> None:
    made = new_id(prefix)
    assert re.fullmatch(rf"{prefix}_[0-7][0-9A-HJKMNP-TV-Z]{{25}}", made)
    assert is_id(made, prefix)


@given(st.text(max_size=10).filter(lambda text: not re.fullmatch(r"[a-z]{2,8}", text)))
def test_an_odd_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        new_id(prefix)


@given(st.text(max_size=40))
def test_other_texts_are_no_ids(text: str) -> None:
    assert is_id(text, "usr") == bool(re.fullmatch(r"usr_[0-7][0-9A-HJKMNP-TV-Z]{25}", text))
    assert not is_id(new_id("job"), "usr")
    assert not is_id(new_id("usr") + "\n", "usr")


def test_ids_sort_by_creation_even_within_a_millisecond() -> None:
    made = [new_id("job") for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_keep_their_order_when_the_clock_steps_back() -> None:
    before = new_id("job")
    with mock.patch.object(ids.time, "time_ns", return_value=1_600_000_000_000_000_000):
        assert new_id("job") > before


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_text_order_is_time_order(first_ms: int, second_ms: int) -> None:
    first, second = (ids._encode(ms << 80) for ms in (first_ms, second_ms))
    assert (first < second) == (first_ms < second_ms)


def test_threads_never_share_an_id() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_id("job") for _ in range(2000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000


def test_a_forked_process_draws_other_ids() -> None:
    new_id("job")  # fills the store of randomness
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_id("job").encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 64).decode()
    os.close(reader)
    os.close(writer)
    # The last 16 characters are random.
    assert theirs[-16:] != new_id("job")[-16:]
