"""Which URLs are fetched for a user: a table of those that must never lead to a connection."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog_svc.clients.guarded_http import FetchLimits, GuardedHttp
from catalog_svc.domain.errors import SourceRefused, SourceUnavailable
from catalog_svc.domain.public_address import IpAddress, check_redirect, check_url, is_public

LIMITS = FetchLimits(max_bytes=1000)
NAMES = {
    "public.example": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"],
    "localtest.example": ["127.0.0.1"],
    "private.example": ["10.0.0.5"],
    "metadata.google.internal": ["169.254.169.254"],
    "mixed.example": ["93.184.216.34", "192.168.1.1"],
    "mixed6.example": ["93.184.216.34", "::1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nat64.example": ["64:ff9b::a9fe:a9fe"],
    "localhost": ["127.0.0.1", "::1"],
    "nothing.example": [],
}


@dataclass
class RecordingNetwork:
    """Answers from a table, numbers as the system does, and notes what it would have dialled."""

    dialled: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> list[IpAddress]:
        if host in NAMES:
            return [ipaddress.ip_address(text) for text in NAMES[host]]
        # Numbers only: what a resolver makes of `0x7f.1` without asking anybody.
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [ipaddress.ip_address(row[4][0]) for row in rows]

    async def dial(self, address: IpAddress, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        self.dialled.append(str(address))
        raise httpcore.ConnectError("this test reaches nobody")


FORBIDDEN = [
    # Loopback, in all its spellings.
    "https://127.0.0.1/", "https://127.1/", "https://127.0.1/", "https://2130706433/", "https://0x7f000001/",
    "https://0x7f.1/", "https://0177.0.0.1/", "https://017700000001/", "https://127.0.0.1:8443/x", "https://127.255.255.254/",
    "https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://localtest.example/", "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[::127.0.0.1]/",
    "https://0.0.0.0/", "https://0/", "https://[::]/", "https://１２７.０.０.１/", "https://127。0。0。1/",
    # Private networks, link-local, shared address space, documentation, benchmarks.
    "https://10.0.0.1/", "https://172.16.0.1/", "https://172.31.255.255/", "https://192.168.0.1/", "https://100.64.0.1/",
    "https://100.100.100.200/", "https://169.254.0.1/", "https://192.0.0.192/", "https://192.0.2.1/", "https://198.18.0.1/",
    "https://198.51.100.7/", "https://203.0.113.9/", "https://192.88.99.1/", "https://private.example/",
    "https://[fc00::1]/", "https://[fd12:3456::1]/", "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fec0::1]/",
    "https://[2001:db8::1]/", "https://[3fff::1]/", "https://[100::1]/", "https://[5f00::1]/",
    # The clouds' metadata.
    "https://169.254.169.254/latest/meta-data/", "https://0xa9fea9fe/", "https://2852039166/", "https://0251.0376.0251.0376/",
    "https://metadata.google.internal/", "https://[fd00:ec2::254]/", "https://168.63.129.16/",
    # IPv4 wrapped in IPv6: NAT64, 6to4, Teredo, ISATAP, mapped.
    "https://[64:ff9b::a9fe:a9fe]/", "https://[64:ff9b:1::a9fe:a9fe]/", "https://[2002:a9fe:a9fe::]/",
    "https://[2002:7f00:1::1]/", "https://[2001:0:53aa:64c:0:fbbb:5601:5601]/", "https://[2606:4700::5efe:10.0.0.1]/",
    "https://[::ffff:169.254.169.254]/", "https://mapped.example/", "https://nat64.example/",
    # Multicast, broadcast, reserved.
    "https://224.0.0.1/", "https://239.255.255.250/", "https://[ff02::1]/", "https://240.0.0.1/", "https://255.255.255.255/",
    # Names of which one address is public and another is not.
    "https://mixed.example/", "https://mixed6.example/", "https://nothing.example/",
    # Other schemes.
    "http://public.example/", "ftp://public.example/", "file:///etc/passwd", "gopher://public.example/", "dict://public.example/",
    "data:text/plain,x", "javascript:1", "//public.example/", "public.example/x", "", "https:/public.example/", "https://",
    "https:public.example", "jar:https://public.example/!/",
    # What two parsers read differently.
    "https://user@public.example/", "https://public.example@127.0.0.1/", "https://public.example:443@127.0.0.1/",
    "https://a:b@public.example/", "https://@public.example/", "https://public.example\\@127.0.0.1/",
    "https:\\\\127.0.0.1/",
    "https://127.0.0.1\\.public.example/", "https://public.example/ HTTP/1.1\r\nHost: 127.0.0.1", "https://public.example\t/",
    "https://public.example\n.localhost/", " https://public.example/", "https://public.example/\0", "https://public.example:0/",
    "https://public.example:99999/", "https://public.example:/", "https://public.example:80:80/", "https://[public.example]/",
    "https://[::1/", "https://::1/", "https://1.2.3/", "https://1.2.3.4.5/", "https://256.1.1.1/", "https://1.1.1.1./",
    "https://exa%6dple.com/", "https://127.0.0.1%2f.public.example/", "https://пример.example/", "https://ⓛocalhost/",
    "https://-public.example/", "https://public..example/", "https://" + "a" * 64 + ".example/",
    "https://p.example/" + "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_no_connection_is_made_for_it(url: str) -> None:
    network = RecordingNetwork()
    http = GuardedHttp(LIMITS, network=network)
    with pytest.raises(SourceRefused) as refused:
        async with http.get(url):
            raise AssertionError("it was fetched")
    await http.close()
    assert network.dialled == []
    assert refused.value.remedy
    assert "\r" not in str(refused.value)


def test_the_table_is_long_enough() -> None:
    assert len(set(FORBIDDEN)) >= 100


@pytest.mark.parametrize(
    "url",
    [
        "https://public.example/a.mp4", "https://PUBLIC.example:8443/a.mp4?x=1#part", "https://93.184.216.34/",
        "https://[2606:4700:4700::1111]/", "https://public.example/a b".replace(" ", "%20"), "https://public.example/ü",
        "https://[::ffff:93.184.216.34]/",
    ],
)  # fmt: skip
async def test_what_is_public_is_dialled_at_its_first_checked_address(url: str) -> None:
    network = RecordingNetwork()
    http = GuardedHttp(LIMITS, network=network)
    with pytest.raises(SourceUnavailable):
        async with http.get(url):
            raise AssertionError("nobody is there")
    await http.close()
    assert network.dialled
    assert all(is_public(ipaddress.ip_address(text)) for text in network.dialled)


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1/", "//127.0.0.1/", "http://public.example/", "https://u@public.example/", "file:///etc/passwd",
        "\\\\127.0.0.1", "https://[::1]/", "https://2130706433/", "https://169.254.169.254/", "https://pub lic/",
    ],
)  # fmt: skip
def test_a_redirect_is_checked_like_the_first_url(location: str) -> None:
    with pytest.raises(SourceRefused):
        check_redirect(check_url("https://public.example/a/b"), location)


def test_a_relative_redirect_stays_at_its_host() -> None:
    url = check_redirect(check_url("https://public.example:444/a/b?c"), "../d?e=f")
    assert str(url) == "https://public.example:444/d?e=f"


@given(st.ip_addresses(v=4))
def test_wrapping_makes_nothing_public(address: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | int(address))
    assert is_public(mapped) == is_public(address)
    for prefix in (0x0064_FF9B << 96, 0x2002 << 112 | int(address) << 80, 0x2001_0000 << 96):
        assert not is_public(ipaddress.IPv6Address(prefix | int(address)))


@given(st.text(max_size=60))
def test_any_text_is_refused_or_a_plain_https_url(text: str) -> None:
    try:
        url = check_url(f"https://{text}")
    except SourceRefused:
        return
    assert url.scheme == "https"
    assert not set(url.host) & set("@/\\#?%[] \t\r\n")
    assert url.target.startswith("/")
    assert url.target.isascii()
    assert url.target.isprintable()


@given(st.ip_addresses())
def test_no_address_with_a_scope_is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if isinstance(address, ipaddress.IPv6Address):
        assert not is_public(ipaddress.IPv6Address(f"{address}%1"))


def test_a_tolerated_server_is_tolerated_at_its_port_only() -> None:
    tolerated = frozenset({"127.0.0.1:8000"})
    assert check_url("http://127.0.0.1:8000/", tolerated).port == 8000
    for other in ("http://127.0.0.1:8001/", "https://127.0.0.1:8001/", "http://127.0.0.2:8000/"):
        with pytest.raises(SourceRefused):
            check_url(other, tolerated)


def test_a_signature_is_never_shown() -> None:
    assert check_url("https://public.example/a?X-Amz-Signature=secret").shown == "https://public.example/a"
