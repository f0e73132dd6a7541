"""Who may call this service where calls between services are by mutual TLS."""

from __future__ import annotations

from meshkit.rpc.peers import Peers

PEERS: Peers = {
    "edge": frozenset(
        f"reeltune.scheduler.v1.{name}Service"
        for name in ("Estimate", "PostTraining", "Preset", "Quota", "Training", "Use", "Worker")
    ),
    "catalog": frozenset(
        {
            "/reeltune.scheduler.v1.AttemptService/GetJwks",
            "/reeltune.scheduler.v1.QuotaService/GetMyQuota",
            "/reeltune.scheduler.v1.UseService/ListUses",
        }
    ),
    "trainer": frozenset(
        {
            *(f"reeltune.scheduler.v1.{name}Service" for name in ("Attempt", "Checkpoint", "Source")),
            *(f"/reeltune.scheduler.v1.TrainingService/{rpc}" for rpc in ("GetArtifact", "GetTrainingJob")),
        }
    ),
}
