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

from meshkit.rpc.client import open_channel
from meshkit.settings import ServiceSettings
from meshkit.testing.plugin import Serve
from tests.rpc.meshkit.echo_service import Echo, EchoServicer


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of a test, with a leaf for 127.0.0.1."""

    ca: Path
    certificate: Path
    key: Path


def _make_authority(folder: Path) -> Authority:
    folder.mkdir()
    ca_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{folder.name} authority")])
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
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "leaf.key").write_bytes(
        leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Authority(folder / "ca.pem", folder / "leaf.pem", folder / "leaf.key")


@pytest.mark.parametrize("is_mutual", [False, True])
async def test_only_the_right_identity_is_served(
    serve: Serve, echo: Echo, servicer: EchoServicer, tmp_path: Path, is_mutual: bool
) -> None:
    ours, foreign = _make_authority(tmp_path / "ours"), _make_authority(tmp_path / "foreign")
    settings = ServiceSettings(
        tls_certificate=ours.certificate, tls_key=ours.key, tls_client_ca=ours.ca if is_mutual else None
    )
    served = await serve([echo.registration(servicer)], settings=settings)

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
