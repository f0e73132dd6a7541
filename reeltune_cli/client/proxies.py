"""Which proxy the environment wants an address to be reached by, in the ways in which people write that."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from reeltune_cli.client.errors import ClientError

_PORTS = {"http": 80, "https": 443}


def proxy_of(url: str) -> str:
    """Returns the address of the proxy by which an address is to be reached, or the empty string.

    Raises:
        ClientError: what the environment names is no proxy that HTTP goes through.
    """
    address = urlsplit(url)
    host = address.hostname or ""
    # By itself too: the colons of an IPv6 address would be taken for that of a port.
    if proxy_bypass(host) or proxy_bypass(_with_port(host, address.port or _PORTS.get(address.scheme))):
        return ""
    proxies = getproxies()
    scheme = address.scheme if proxies.get(address.scheme) else "all"
    proxy = proxies.get(scheme)
    return _checked(proxy, f"{scheme}_proxy") if proxy else ""


def _with_port(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked(proxy: str, variable: str) -> str:
    """Returns a proxy's address with its scheme; many write `proxy.example:3128`."""
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parsed = parse_url(address)
    except LocationParseError:
        parsed = None
    if parsed is not None and parsed.host and parsed.scheme in _PORTS:
        return address
    # The address itself is not told: it may hold a password.
    what = "a proxy that cannot be used" if parsed is None or not parsed.host else f"a {parsed.scheme}:// proxy"
    raise ClientError(
        f"{_spelt(variable, proxy)} names {what}",
        "PROXY_NOT_SUPPORTED",
        "set it to http://HOST:PORT or https://HOST:PORT, or name the mesh's host in no_proxy",
    )


def _spelt(variable: str, value: str) -> str:
    """Returns a variable's name as it is set; people write both HTTPS_PROXY and https_proxy."""
    same = (name for name, found in os.environ.items() if name.lower() == variable and found == value)
    return next(same, f"the system's {variable}")
