"""Page tokens: what is put in comes out, for the same caller and query only."""

from __future__ import annotations

import base64

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from meshkit.rpc.failure import Failure
from meshkit.rpc.paging import PageTokens, fitting, page_size

TOKENS = PageTokens(b"0123456789abcdef")
POSITIONS = st.lists(st.one_of(st.text(max_size=30), st.integers(-(2**53), 2**53)), min_size=1, max_size=3)
TEXTS = st.text(max_size=30)


def _refused(token: str, **query: str) -> bool:
    with pytest.raises(Failure) as raised:
        TOKENS.decode(token, **{"caller": "usr_1", **query})
    return (raised.value.code, raised.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


@given(POSITIONS, TEXTS, TEXTS, TEXTS)
def test_a_token_gives_its_position_back(
    position: list[str | int], caller: str, filter_text: str, order_by: str
) -> None:
    token = TOKENS.encode(position, caller=caller, filter=filter_text, order_by=order_by)
    assert TOKENS.decode(token, caller=caller, filter=filter_text, order_by=order_by) == tuple(position)


@given(st.tuples(TEXTS, TEXTS, TEXTS), st.tuples(TEXTS, TEXTS, TEXTS))
def test_a_token_is_good_for_its_own_query_only(made_for: tuple[str, ...], used_for: tuple[str, ...]) -> None:
    names = ("caller", "filter", "order_by")
    token = TOKENS.encode(["x"], **dict(zip(names, made_for, strict=True)))
    if made_for == used_for:
        assert TOKENS.decode(token, **dict(zip(names, used_for, strict=True))) == ("x",)
    else:
        assert _refused(token, **dict(zip(names, used_for, strict=True)))


@given(st.data())
def test_a_single_flipped_bit_is_noticed(data: st.DataObject) -> None:
    token = TOKENS.encode(["2026-01-01T00:00:00Z", "job_1"], caller="usr_1")
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert _refused(base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode())


@given(st.text(min_size=1, max_size=200))
def test_made_up_tokens_are_refused(token: str) -> None:
    assert _refused(token)


def test_the_first_page_has_no_position_and_another_secret_no_meaning() -> None:
    assert TOKENS.decode("", caller="usr_1") is None
    other = PageTokens(b"another secret of 16 bytes")
    assert _refused(other.encode(["x"], caller="usr_1"))
    assert _refused("A" * 5000)
    with pytest.raises(ValueError, match="16 bytes"):
        PageTokens(b"short")


@pytest.mark.parametrize(("requested", "used"), [(0, 50), (1, 1), (200, 200), (201, 200), (2**31 - 1, 200)])
def test_page_sizes_are_coerced(requested: int, used: int) -> None:
    assert page_size(requested) == used


def test_a_negative_page_size_names_its_field() -> None:
    with pytest.raises(Failure) as raised:
        page_size(-1)
    assert raised.value.field_violations[0].field == "page_size"


def test_a_page_ends_before_it_gets_too_large_and_never_without_a_row() -> None:
    rows = [StringValue(value="x" * 98) for _ in range(10)]
    assert rows[0].ByteSize() == 100
    assert [fitting(rows, most) for most in (1000, 999, 250, 100, 1)] == [10, 9, 2, 1, 1]
    assert fitting([]) == 0
    assert fitting(rows) == 10
