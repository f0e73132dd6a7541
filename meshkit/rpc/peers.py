"""Which identity may call which rpcs: read from each service's table, held by the port where TLS is mutual."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from meshkit.rpc.access import PUBLIC_SERVICES

TRUST_DOMAIN = "spiffe://reeltune/"
"""What certificates of the mesh name their owner by, as a URI: https://spiffe.io, SPIFFE-ID 2.1."""

Peers = Mapping[str, frozenset[str]]
"""By identity (`scheduler`), the whole services (`pkg.Service`) and the rpcs (`/pkg.Service/Rpc`) that it may call."""

NO_PEERS: Peers = MappingProxyType({})


def peer_policy(peers: Peers, served: Mapping[str, object]) -> dict[str, frozenset[str]]:
    """Returns, by full path, the identities that each served rpc admits.

    Health and reflection are not in it: whoever has a certificate of the mesh may ask for them.

    `served` has the full path of every rpc as its keys.

    Raises:
        ValueError: `peers` names a service or an rpc that is not served.
    """
    public = tuple(f"/{name}/" for name in PUBLIC_SERVICES)
    policy: dict[str, set[str]] = {path: set() for path in served if not path.startswith(public)}
    for identity, targets in peers.items():
        for target in targets:
            paths = [path for path in policy if path == target or path.startswith(f"/{target}/")]
            if not paths:
                raise ValueError(f"peers lets {identity} call {target}, which is not served here")
            for path in paths:
                policy[path].add(identity)
    return {path: frozenset(identities) for path, identities in policy.items()}
