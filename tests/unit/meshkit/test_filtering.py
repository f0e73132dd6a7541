from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.rpc.filtering import (
    MAX_COMPARISONS,
    Choice,
    Comparison,
    FieldKind,
    FilterError,
    Flag,
    Identifier,
    Operator,
    Text,
    filter_failure,
    parse_filter,
)

FIELDS: dict[str, FieldKind] = {
    "name": Text(),
    "owner_id": Identifier(),
    "disabled": Flag(),
    "state": Choice.of(("READY", "ERROR")),
}


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_blank_filter_has_no_conditions(text: str) -> None:
    assert parse_filter(text, FIELDS) == ()


def test_reads_every_kind_of_condition() -> None:
    text = 'name : "cats and dogs" AND state = READY AND disabled != true AND owner_id = usr_01 AND name="x"'
    assert parse_filter(text, FIELDS) == (
        Comparison("name", Operator.HAS, "cats and dogs"),
        Comparison("state", Operator.EQUALS, "READY"),
        Comparison("disabled", Operator.DIFFERS, True),
        Comparison("owner_id", Operator.EQUALS, "usr_01"),
        Comparison("name", Operator.EQUALS, "x"),
    )


@pytest.mark.parametrize(
    ("text", "position", "part"),
    [
        ("colour = red", 0, "the fields are disabled, name, owner_id, state"),
        ("name", 4, "needs `:`, `=` or `!=`"),
        ("name :", 6, "needs a value"),
        ("name = = x", 7, "needs a value"),
        ("state : READY", 6, "cannot search within state"),
        ("state = ready", 8, "use ERROR, READY"),
        ("disabled = yes", 11, "true or false"),
        ('disabled = "true"', 11, "true or false"),
        ('name = "x', 7, "does not end"),
        ("name = a name = b", 9, "needs AND"),
        ("name = a OR name = b", 9, "does not know OR"),
        ("name = a AND", 12, "cannot start a condition with the end"),
        ("AND name = a", 0, "cannot start a condition with 'AND'"),
        ("name = a AND (name = b)", 13, "cannot be read"),
        ("name = 'x'", 7, "cannot be read"),
        ("name = a\0b", 8, "NUL"),
        ("name = x; DROP TABLE users", 8, "cannot be read"),
    ],
)
def test_says_what_is_wrong_and_where(text: str, position: int, part: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text, FIELDS)
    assert caught.value.position == position
    assert part in caught.value.message


def test_limits_the_number_of_conditions() -> None:
    most = " AND ".join(["disabled = true"] * MAX_COMPARISONS)
    assert len(parse_filter(most, FIELDS)) == MAX_COMPARISONS
    with pytest.raises(FilterError, match="more than"):
        parse_filter(f"{most} AND disabled = true", FIELDS)


def test_becomes_a_failure_that_names_field_and_position() -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter("name ~ x", FIELDS)
    failure = filter_failure(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
    assert failure.metadata == {"field": "filter", "position": "5"}
    assert failure.field_violations[0].field == "filter"
    assert "at character 6" in failure.message


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80))
def test_any_quoted_text_comes_back_whole(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_filter(f'name = "{quoted}"', FIELDS) == (Comparison("name", Operator.EQUALS, value),)


@given(st.text(alphabet=st.sampled_from('nameAND :="!\\ xé(\n'), max_size=60))
def test_any_text_is_read_or_refused_within_it(text: str) -> None:
    refused_at = 0
    try:
        parse_filter(text, FIELDS)
    except FilterError as error:
        refused_at = error.position
    assert 0 <= refused_at <= len(text)
