"""Who may call this service where calls between services are by mutual TLS."""

from __future__ import annotations

from meshkit.rpc.peers import Peers

_VERIFY_TOKENS = frozenset(
    {"/reeltune.auth.v1.AuthService/GetJwks", "/reeltune.auth.v1.RevocationService/ListRevocations"}
)

PEERS: Peers = {
    "edge": frozenset({"reeltune.auth.v1.AuthService", "reeltune.auth.v1.UserService"}),
    "catalog": _VERIFY_TOKENS,
    "scheduler": _VERIFY_TOKENS,
    "trainer": _VERIFY_TOKENS,
}
