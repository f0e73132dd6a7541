from __future__ import annotations

import pytest

from reeltune_cli.amounts import read_count, read_hours, read_size
from reeltune_cli.client import ClientError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("512", 512), ("24GB", 24 * 10**9), ("1.5 tb", 15 * 10**11), ("10mb", 10**7), ("7 B", 7)],
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int) -> None:
    assert read_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "24 GiB", "24G", "1e3", "many"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClientError) as caught:
        read_size(text)
    assert "24GB" in caught.value.next_step


def test_numbers_and_hours() -> None:
    assert (read_count("12"), read_hours("1.5")) == (12, 1.5)
    for read in (read_count, read_hours):
        with pytest.raises(ClientError):
            read("two")
