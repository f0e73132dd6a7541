"""TLS and mutual TLS: who has no certificate of the right authority is not served."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit.rpc.client import open_channel, open_peer_channel
from meshkit.rpc.peers import peer_policy
from meshkit.rpc.status import failure_from_rpc_error
from meshkit.settings import ServiceSettings
from meshkit.testing.plugin import Serve
from tests.rpc.meshkit.echo_service import SERVICE, Echo, EchoServicer


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of a test, with a leaf for 127.0.0.1 that names one identity, or nobody."""

    ca: Path
    certificate: Path
    key: Path


def _make_authority(folder: Path, *uris: str, of: Path | None = None) -> Authority:
    """Makes a leaf with these URIs, of an authority made before or of its own."""
    folder.mkdir()
    ca_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    if of is not None:
        loaded = serialization.load_pem_private_key((of / "ca.key").read_bytes(), password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        ca_key = loaded
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{(of or folder).name} authority")])
    now = datetime.now(UTC)

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
        )

    ca = builder(ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    leaf = builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]), leaf_key).add_extension(
        x509.SubjectAlternativeName(
            [
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                *(x509.UniformResourceIdentifier(uri) for uri in uris),
            ]
        ),
        critical=False,
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    for name, key in (("leaf.key", leaf_key), ("ca.key", ca_key)):
        (folder / name).write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
    return Authority(folder / "ca.pem", folder / "leaf.pem", folder / "leaf.key")


@pytest.mark.parametrize("is_mutual", [False, True])
async def test_only_the_right_identity_is_served(
    serve: Serve, echo: Echo, servicer: EchoServicer, tmp_path: Path, is_mutual: bool
) -> None:
    name = "spiffe://reeltune/scheduler"
    ours, foreign = _make_authority(tmp_path / "ours", name), _make_authority(tmp_path / "foreign", name)
    settings = ServiceSettings(
        tls_certificate=ours.certificate, tls_key=ours.key, tls_client_ca=ours.ca if is_mutual else None
    )
    served = await serve([echo.registration(servicer)], settings=settings, peers={"scheduler": frozenset({SERVICE})})

    async def is_served(channel: grpc.aio.Channel) -> bool:
        async with channel:
            call = echo.stub(channel).Open(echo.pb.OpenRequest(), timeout=3)
            code = await call.code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
        return bool(code is grpc.StatusCode.OK)

    address = served.address
    with_ours = open_channel(address, tls_ca=ours.ca, tls_certificate=ours.certificate, tls_key=ours.key)
    assert await is_served(with_ours)
    assert await is_served(open_channel(address, tls_ca=ours.ca)) is not is_mutual
    foreigner = open_channel(address, tls_ca=ours.ca, tls_certificate=foreign.certificate, tls_key=foreign.key)
    assert await is_served(foreigner) is not is_mutual
    assert not await is_served(open_channel(address, tls_ca=foreign.ca))
    assert not await is_served(open_channel(address))


@pytest.mark.parametrize(
    ("uris", "is_admitted"),
    [
        (("spiffe://reeltune/scheduler",), True),
        (("spiffe://reeltune/trainer",), False),
        ((), False),
        (("spiffe://elsewhere/scheduler",), False),
        (("spiffe://reeltune/scheduler/more",), False),
        (("https://reeltune/scheduler",), False),
        # SPIFFE-ID 2: a certificate names one identity. Two would be whichever suits its holder.
        (("spiffe://reeltune/trainer", "spiffe://reeltune/scheduler"), False),
    ],
)
async def test_an_identity_is_served_what_the_table_gives_it_and_nothing_else(
    serve: Serve, echo: Echo, servicer: EchoServicer, tmp_path: Path, uris: tuple[str, ...], is_admitted: bool
) -> None:
    ours = _make_authority(tmp_path / "ours")
    settings = ServiceSettings(tls_certificate=ours.certificate, tls_key=ours.key, tls_client_ca=ours.ca)
    peers = {"scheduler": frozenset({f"/{SERVICE}/Open"}), "trainer": frozenset({f"/{SERVICE}/Machines"})}
    served = await serve([echo.registration(servicer)], settings=settings, peers=peers)
    caller = _make_authority(tmp_path / "caller", *uris, of=tmp_path / "ours")
    async with open_channel(
        served.address, tls_ca=ours.ca, tls_certificate=caller.certificate, tls_key=caller.key
    ) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        if is_admitted:
            await echo.stub(channel).Open(echo.pb.OpenRequest(), timeout=5)
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo.stub(channel).Open(echo.pb.OpenRequest(), timeout=5)
        failure = failure_from_rpc_error(refused.value)
        assert failure is not None
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ADMITTED")


def test_a_table_that_names_what_is_not_served_stops_the_build(echo: Echo) -> None:
    with pytest.raises(ValueError, match="NoSuchRpc"):
        peer_policy({"scheduler": frozenset({f"/{SERVICE}/NoSuchRpc"})}, {f"/{SERVICE}/Open": None})


async def test_a_caller_with_a_certificate_needs_its_token_all_the_same(
    serve: Serve, echo: Echo, servicer: EchoServicer, tmp_path: Path
) -> None:
    ours = _make_authority(tmp_path / "ours", "spiffe://reeltune/scheduler")
    settings = ServiceSettings(tls_certificate=ours.certificate, tls_key=ours.key, tls_client_ca=ours.ca)
    served = await serve([echo.registration(servicer)], settings=settings, peers={"scheduler": frozenset({SERVICE})})
    caller = ServiceSettings(tls_certificate=ours.certificate, tls_key=ours.key, peer_tls_ca=ours.ca)
    async with open_peer_channel(caller, served.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo.stub(channel).Machines(echo.pb.OpenRequest(), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
