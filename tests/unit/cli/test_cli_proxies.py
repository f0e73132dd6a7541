"""Which proxy is used, as the variables of the environment are written."""

from __future__ import annotations

import pytest

from reeltune_cli.client import ClientError
from reeltune_cli.client.proxies import proxy_of

URL = "https://store.example/a?signature=b"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"http_proxy": "http://one:1"}, ""),
        ({"https_proxy": "http://one:1", "all_proxy": "http://two:2"}, "http://one:1"),
        ({"all_proxy": "HTTPS://ada:secret@two:2/"}, "HTTPS://ada:secret@two:2/"),
        ({"https_proxy": "one:1"}, "http://one:1"),
        ({"HTTPS_PROXY": "ada:secret@one"}, "http://ada:secret@one"),
        ({"https_proxy": "[::1]:1"}, "http://[::1]:1"),
    ],
)
def test_a_proxys_address_has_its_scheme(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(URL) == expected


@pytest.mark.parametrize(
    ("url", "exception", "is_used"),
    [
        ("https://store.example/a", "store.example", False),
        ("https://store.example/a", "example", False),
        ("https://store.example/a", "store.example:443", False),
        ("https://store.example/a", "store.example:8443", True),
        ("https://store.example:8443/a", "else, store.example:8443", False),
        ("https://store.example:8443/a", "store.example:443", True),
        ("https://ada:secret@store.example:8443/a", "store.example:8443", False),
        ("https://[::1]:8443/a", "::1", False),
        ("https://[::1]:8443/a", "[::1]:8443", False),
        ("https://[::1]:8443/a", "[::1]:443", True),
    ],
)
def test_exceptions_may_have_a_port(monkeypatch: pytest.MonkeyPatch, url: str, exception: str, is_used: bool) -> None:
    monkeypatch.setenv("https_proxy", "http://one:1")
    monkeypatch.setenv("no_proxy", exception)
    assert proxy_of(url) == ("http://one:1" if is_used else "")


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("all_proxy", "socks5://ada:secret@one:1", "socks5://"),
        ("HTTPS_PROXY", "ftp://one", "ftp://"),
        ("https_proxy", "http://secret@[one", "cannot be used"),
        ("https_proxy", "http://secret@one:99999", "cannot be used"),
        ("https_proxy", "http://", "cannot be used"),
    ],
)
def test_a_proxy_of_another_kind_is_told_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, what: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ClientError) as caught:
        proxy_of(URL)
    assert caught.value.reason == "PROXY_NOT_SUPPORTED"
    assert variable in caught.value.message
    assert what in caught.value.message
    assert "secret" not in caught.value.message
