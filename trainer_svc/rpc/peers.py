"""Who may call a trainer where calls between services are by mutual TLS."""

from __future__ import annotations

from meshkit.rpc.peers import Peers

PEERS: Peers = {
    "edge": frozenset({"reeltune.trainer.v1.InferenceService"}),
    "operator": frozenset({"reeltune.trainer.v1.TrainerService"}),
}
"""An operator is a person on the same network with a certificate of that name."""
