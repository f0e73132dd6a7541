"""Who may call this service where calls between services are by mutual TLS."""

from __future__ import annotations

from meshkit.rpc.peers import Peers

PEERS: Peers = {
    "edge": frozenset(
        f"reeltune.catalog.v1.{name}Service"
        for name in (
            "Clip",
            "Dataset",
            "Import",
            "Model",
            "Sample",
            "Storage",
            "Upload",
            "UploadBatch",
            "Usage",
            "Version",
        )
    ),
    "scheduler": frozenset(
        {
            "/reeltune.catalog.v1.DatasetService/GetDataset",
            "/reeltune.catalog.v1.ModelService/GetModel",
            "/reeltune.catalog.v1.SampleService/GetDatasetStatistics",
        }
    ),
    "trainer": frozenset({"reeltune.catalog.v1.SnapshotService"}),
}
