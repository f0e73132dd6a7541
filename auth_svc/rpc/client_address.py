"""Where a call comes from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext

_FORWARDED = "x-forwarded-for"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(context: Context, trusted_proxies: Sequence[Network]) -> str:
    """Returns the client's IP address, or the transport's name where there is none."""
    metadata = context.invocation_metadata() or ()
    return address_of(context.peer(), (str(value) for key, value in metadata if key == _FORWARDED), trusted_proxies)


def address_of(peer: str, forwarded: Iterable[str], trusted_proxies: Sequence[Network]) -> str:
    """Returns the peer's address or, behind a trusted proxy, the last one that the proxy put down.

    Only the last: everything before it came from the client, who may write what they like.
    """
    address = _peer_address(peer)
    if address is None:
        return peer.partition(":")[0]
    entries = [entry.strip() for value in forwarded for entry in value.split(",")]
    if entries and any(address in network for network in trusted_proxies):
        return str(_parsed(entries[-1]) or address)
    return str(address)


def _peer_address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Reads grpc's `ipv4:1.2.3.4:5` or `ipv6:%5B::1%5D:5`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return _parsed(unquote(rest).rpartition(":")[0].strip("[]"))


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
