"""Which addresses are public, and which URLs may be fetched on behalf of a user. Pure: no name is looked up here.

The ranges are those of IANA's special-purpose registries; `ipaddress.is_global` alone is not enough, as it takes the
NAT64 and 6to4 forms of a private address, and multicast, for global.
https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from catalog_svc.domain.errors import SourceRefused

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_CHARACTERS = 4096
_PORTS = {"https": 443, "http": 80}
_KEPT = "/%:@!$&'()*+,;=~-._?"
"""What stands in a path or query as it is."""

_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        # Azure answers here, from its own machines, as others do at 169.254.169.254.
        "168.63.129.16/32",
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All unicast addresses that are handed out; NAT64 (64:ff9b::), loopback, private and multicast lie outside."""
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # of protocols: Teredo, benchmarks, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: a way to any IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""The upper half of an interface id that carries an IPv4 address."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\\\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class FetchUrl:
    """A URL taken apart: what is looked up, dialled and asked for is this, and never the text again."""

    scheme: str
    host: str
    """A name in lower case, or an address without brackets."""
    port: int
    target: str
    """Path and query, ASCII."""

    @property
    def origin(self) -> str:
        """`host:port`."""
        return f"{self.bracketed_host}:{self.port}"

    @property
    def bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def host_header(self) -> str:
        """What the Host header says."""
        return self.bracketed_host if self.port == _PORTS[self.scheme] else self.origin

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target}"

    @property
    def shown(self) -> str:
        """The URL for messages and logs: without its query, which may hold a signature."""
        return f"{self.scheme}://{self.host_header}{self.target.partition('?')[0]}"[:300]


def is_public(address: IpAddress) -> bool:
    """Tells whether an address belongs to the public Internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        carries_v4 = (int(address) >> 32) & 0xFFFFFFFF in _ISATAP
        return (
            address in _GLOBAL_V6
            and not any(address in network for network in _REFUSED_V6)
            and not carries_v4
            and address.is_global
        )
    return address.is_global and not any(address in network for network in _REFUSED_V4)


def literal_address(host: str) -> IpAddress | None:
    """Returns the address that a host is, if it is one."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_url(text: str, tolerated: frozenset[str] = frozenset()) -> FetchUrl:
    """Returns a URL that may be looked up; whether its addresses are public is for `check_addresses`.

    Args:
        text: The URL as a user wrote it.
        tolerated: `host:port` of servers that tests run, which may speak http and lie anywhere.

    Raises:
        SourceRefused: it is no plain https URL.
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise SourceRefused(
            "URL_INVALID", f"the URL has more than {MAX_URL_CHARACTERS} characters", "use a shorter one"
        )
    if _FORBIDDEN.search(text):
        raise _invalid("it holds a space, a control character or a backslash", "encode it with % and two digits")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _invalid("it cannot be read", "check its host and port") from error
    if parts.scheme not in _PORTS:
        raise SourceRefused("URL_NOT_HTTPS", "only https URLs are fetched", "use a URL that begins with https://")
    if "@" in parts.netloc:
        raise SourceRefused("URL_HAS_USERINFO", "the URL holds a user name", "remove what stands before the @")
    host = _checked_host(parts.hostname or "")
    if port == 0 or parts.netloc.endswith(":"):
        raise _invalid("its port is none", "leave the port out, or give the right one")
    target = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        target = f"{target}?{quote(parts.query, safe=_KEPT)}"
    url = FetchUrl(parts.scheme, host, port or _PORTS[parts.scheme], target)
    if url.scheme != "https" and url.origin not in tolerated:
        raise SourceRefused("URL_NOT_HTTPS", "only https URLs are fetched", "use a URL that begins with https://")
    address = literal_address(host)
    if address is not None and url.origin not in tolerated:
        check_addresses(host, [address])
    return url


def check_redirect(url: FetchUrl, location: str, tolerated: frozenset[str] = frozenset()) -> FetchUrl:
    """Returns where a redirect leads, checked as the first URL was; raises SourceRefused."""
    if _FORBIDDEN.search(location):
        raise _invalid("it redirects to what is no URL", "use the URL of the file itself")
    try:
        joined = urljoin(str(url), location)
    except ValueError as error:
        raise _invalid("it redirects to what is no URL", "use the URL of the file itself") from error
    return check_url(joined, tolerated)


def check_addresses(host: str, addresses: list[IpAddress]) -> None:
    """Raises SourceRefused unless there are addresses and every one is public.

    One that is not would be reached by asking often enough.
    """
    if not addresses or not all(is_public(address) for address in addresses):
        raise SourceRefused(
            "ADDRESS_NOT_PUBLIC",
            f"{host[:100]} is not, or not only, at public addresses",
            "use a host on the public Internet, or upload the file",
        )


def _checked_host(host: str) -> str:
    if "%" in host:
        raise _invalid("its host holds a %", "write the host in plain letters")
    if ":" in host:
        if literal_address(host) is None:
            raise _invalid("its host is no address", "check the host")
        return host
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        remedy = "write it in ASCII (xn--…), without a dot at its end"
        raise _invalid("its host is no plain name", remedy)
    # `0x7f.1`, `2130706433` and `127.1` are addresses to some and names to others.
    if _NUMBER.fullmatch(labels[-1]) and literal_address(host) is None:
        raise _invalid("its host is a number and no address", "write an address as four numbers")
    return host


def _invalid(what: str, remedy: str) -> SourceRefused:
    return SourceRefused("URL_INVALID", f"the URL is not one to fetch: {what}", remedy)
