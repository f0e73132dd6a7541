"""The services around a trainer, served on free ports."""

from __future__ import annotations

from dataclasses import dataclass

from reeltune.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from reeltune.catalog.v1.snapshot_service_pb2_grpc import add_SnapshotServiceServicer_to_server
from reeltune.scheduler.v1.attempt_service_pb2_grpc import add_AttemptServiceServicer_to_server
from reeltune.scheduler.v1.checkpoint_service_pb2_grpc import add_CheckpointServiceServicer_to_server
from reeltune.scheduler.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server

from meshkit.rpc.registration import ServicerRegistration
from meshkit.testing import TokenMint
from meshkit.testing.plugin import Serve
from tests.rpc.trainer.mesh_doubles import Auth, Catalog, FileStore, ForwardingVerifier, Jobs, Scheduler, sample

ATTACH = "/reeltune.scheduler.v1.AttemptService/Attach"


@dataclass
class Mesh:
    """The services that a trainer talks to, and where they are."""

    auth: Auth
    scheduler: Scheduler
    jobs: Jobs
    catalog: Catalog
    store: FileStore
    auth_target: str
    scheduler_target: str
    catalog_target: str


def small_catalog(store: FileStore) -> Catalog:
    """Two clips and a model of which nothing is what it says: for children that read neither."""
    return Catalog(
        store,
        model={"config.json": b'{"model_type": "tiny"}', "model.safetensors": b"weights" * 1000},
        clips={"a/one.mp4": b"first clip", "two.mp4": b"second clip"},
        samples=[sample("s1", "a/one.mp4", "What?", "This."), sample("s2", "two.mp4", "And?", "That.", "eval")],
    )


async def serve_mesh(serve: Serve, mint: TokenMint, catalog: Catalog) -> Mesh:
    """Serves all of them until the test ends."""
    auth, scheduler, jobs = Auth(), Scheduler(mint, catalog.store), Jobs()
    verifier = ForwardingVerifier(auth, mint)
    authenticating = await serve([ServicerRegistration(add_AuthServiceServicer_to_server, auth)])
    scheduling = await serve(
        [
            ServicerRegistration(add_AttemptServiceServicer_to_server, scheduler),
            ServicerRegistration(add_CheckpointServiceServicer_to_server, scheduler),
            ServicerRegistration(add_TrainingServiceServicer_to_server, jobs),
        ],
        verifier=verifier,
        long_rpcs=frozenset({ATTACH}),
    )
    cataloguing = await serve([ServicerRegistration(add_SnapshotServiceServicer_to_server, catalog)], verifier=verifier)
    return Mesh(
        auth, scheduler, jobs, catalog, catalog.store, authenticating.address, scheduling.address, cataloguing.address
    )
