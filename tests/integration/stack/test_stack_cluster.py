"""The mesh as a cluster runs it: replicas, mutual TLS, a role for each service, and nobody who may do too much."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import grpc
import pytest
import pytest_asyncio
from reeltune.auth.v1 import auth_service_pb2, revocation_service_pb2
from reeltune.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from reeltune.auth.v1.revocation_service_pb2_grpc import RevocationServiceStub
from reeltune.scheduler.v1 import training_service_pb2 as pb
from reeltune.scheduler.v1.training_service_pb2_grpc import TrainingServiceStub

from meshkit.rpc.client import bearer, open_channel
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.testing.eventually import assert_eventually
from tests.e2e.conftest import skip_without_servers
from tests.e2e.training_material import make_material
from tests.faults.mesh_user import MeshUser, rehearsal, signed_up
from tests.integration.stack.cluster import Cluster, running_cluster

VALUES = {
    # Rehearsals: what is tried here is everything around a training.
    "trainers": {"cpu": {"settings": {"TRAINER_RECIPES": "rehearsal", "TRAINER_POLL_SECONDS": 0.5}}},
    "catalog": {"settings": {"CATALOG_DECODE_PROCESSES": 1}},
    "auth": {"replicas": 1, "trustedProxies": ["127.0.0.0/8"]},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The chart's processes."""
    skip_without_servers()
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("NOT TESTED: helm is not installed: python tools/install_helm.py")
    async with running_cluster(tmp_path_factory.mktemp("cluster"), Path(helm), VALUES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def user(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MeshUser]:
    """A user who came in through the edge, with a model and a dataset that a catalog has looked through."""
    material = make_material(tmp_path_factory.mktemp("material"), clips=4)
    async with signed_up(cluster, material) as signed:  # type: ignore[arg-type]  # it wants an endpoint
        yield signed


async def test_a_scheduler_that_is_killed_costs_no_job(cluster: Cluster, user: MeshUser) -> None:
    jobs = [await user.create(rehearsal(steps=10, step_milliseconds=100)) for _ in range(4)]

    async def one_runs() -> bool:
        return "RUNNING" in [await user.state(job.id) for job in jobs]

    await assert_eventually(one_runs, timeout=60)
    await cluster.processes["scheduler-1"].kill()
    jobs.append(await user.create(rehearsal(steps=2)))
    for job in jobs:
        ended = await user.ended(job.id)
        assert ended.state == "COMPLETED"
        assert ended.job.attempt == 1
    await cluster.processes["scheduler-1"].start()
    assert (await user.ended((await user.create(rehearsal(steps=2))).id)).state == "COMPLETED"


async def test_a_service_is_told_to_go_and_goes(cluster: Cluster, user: MeshUser) -> None:
    # Kubernetes sends SIGTERM: here it reaches the process, and the other replica serves on.
    await cluster.processes["catalog-1"].stop()
    assert cluster.processes["catalog-1"].returncode == 0
    assert (await user.ended((await user.create(rehearsal(steps=2))).id)).state == "COMPLETED"
    await cluster.processes["catalog-1"].start()


async def test_past_the_edge_nobody_is_served_without_the_right_certificate(cluster: Cluster, user: MeshUser) -> None:
    token = bearer(await user.client.session.access_token())
    target = f"scheduler.localhost:{cluster.proxies['scheduler'].port}"
    request = pb.ListTrainingJobsRequest()

    async def answer(channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, str]:
        async with channel:
            try:
                await TrainingServiceStub(channel).ListTrainingJobs(request, metadata=token, timeout=5)
            except grpc.aio.AioRpcError as error:
                failure = failure_from_rpc_error(error)
                return error.code(), failure.reason if failure else ""
            return grpc.StatusCode.OK, ""

    edge = cluster.tls("edge")
    assert await answer(open_channel(target, **edge)) == (grpc.StatusCode.OK, "")
    plain, _ = await answer(open_channel(target))
    nameless, _ = await answer(open_channel(target, tls_ca=edge["tls_ca"]))
    assert {plain, nameless} == {grpc.StatusCode.UNAVAILABLE}
    for part in ("auth", "catalog", "trainer"):
        refused = await answer(open_channel(target, **cluster.tls(part)))
        assert refused == (grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ADMITTED")
    # A server under another's name is found out by who calls it.
    catalog = f"scheduler.localhost:{cluster.proxies['catalog'].port}"
    stranger, _ = await answer(open_channel(catalog, **edge))
    assert stranger is grpc.StatusCode.UNAVAILABLE


async def test_services_may_ask_auth_for_what_verifies_tokens_and_not_sign_in(cluster: Cluster) -> None:
    target = f"auth.localhost:{cluster.proxies['auth'].port}"
    async with open_channel(target, **cluster.tls("trainer")) as channel:
        assert (await AuthServiceStub(channel).GetJwks(auth_service_pb2.GetJwksRequest(), timeout=5)).keys
        await RevocationServiceStub(channel).ListRevocations(revocation_service_pb2.ListRevocationsRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await AuthServiceStub(channel).Login(auth_service_pb2.LoginRequest(username="a", password="b"), timeout=5)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(("service", "table"), [("auth", "scheduler.jobs"), ("scheduler", "auth.users")])
async def test_no_service_reads_anothers_tables(cluster: Cluster, service: str, table: str) -> None:
    connection = await asyncpg.connect(cluster.setting(service, "postgres_dsn"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT * FROM {table} LIMIT 1")
    finally:
        await connection.close()


def test_no_secret_is_in_a_log(cluster: Cluster) -> None:
    secrets = {
        value
        for path in cluster.prepared.glob("*/settings/*")
        if (value := path.read_text().strip()) not in ("scheduler", "trainer", "catalog")
    }
    logs = {path.name: path.read_text() for path in cluster.home.glob("*/*.log")}
    assert {"auth-1.log", "catalog-1.log", "scheduler-1.log", "trainer-1.log"} <= set(logs)
    for name, text in logs.items():
        assert not [secret[:4] for secret in secrets if secret in text], name
