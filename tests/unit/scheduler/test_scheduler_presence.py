"""A replica must have been there for a while before it takes jobs from trainers."""

from __future__ import annotations

import pytest

from scheduler_svc.domain.presence import Presence


@pytest.fixture
def presence() -> Presence:
    return Presence(needed=30, longest_gap=15)


def test_one_that_never_was_there_lacks_it_all(presence: Presence) -> None:
    assert presence.missing(1000) == 30


def test_it_is_enough_after_so_long_without_a_break(presence: Presence) -> None:
    lacking = []
    for now in range(100, 145, 5):
        presence.note(now)
        lacking.append(presence.missing(now))

    assert lacking == [30, 25, 20, 15, 10, 5, 0, 0, 0]


def test_a_gap_begins_it_anew(presence: Presence) -> None:
    for now in (0, 15, 30):
        presence.note(now)
    assert presence.missing(30) == 0

    presence.note(46)

    assert presence.missing(46) == 30


def test_what_it_could_not_do_begins_it_anew(presence: Presence) -> None:
    for now in (0, 15, 30):
        presence.note(now)
    presence.lose()
    assert presence.missing(31) == 30

    presence.note(32)

    assert presence.missing(40) == 22
