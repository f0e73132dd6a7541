"""Who may call a trainer where calls between services are by mutual TLS."""

from __future__ import annotations

from meshkit.rpc.peers import Peers

PEERS: Peers = {
    "edge": frozenset({"reeltune.trainer.v1.InferenceService"}),
}
"""`TrainerService` is for people on the trainer's own machine or network: it is served where TLS is not mutual."""
