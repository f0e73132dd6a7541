"""Credentials that the parts of one embedded server use among themselves: made at each start, known to nobody else."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(days=1)


def seaweed_environment(folder: Path) -> dict[str, str]:
    """Returns the settings that close SeaweedFS's own ports to everybody but its own parts.

    Master, volume server, filer and gateway speak gRPC under mutual TLS with one certificate that signs itself; the
    volume server takes only requests that the master signed. The key and the certificate go into `folder`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = folder / "inner.pem", folder / "inner.key"
    _write_pair(certificate, key)
    parts = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT")
    signing = ("JWT_SIGNING", "JWT_SIGNING_READ", "JWT_FILER_SIGNING", "JWT_FILER_SIGNING_READ")
    return {
        "WEED_GRPC_CA": str(certificate),
        **{f"WEED_GRPC_{part}_CERT": str(certificate) for part in parts},
        **{f"WEED_GRPC_{part}_KEY": str(key) for part in parts},
        **{f"WEED_{use}_KEY": secrets.token_urlsafe(32) for use in signing},
    }


def _write_pair(certificate: Path, key: Path) -> None:
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "reeltune-object-store")])
    now = datetime.now(UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    key.unlink(missing_ok=True)
    descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(
            private_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
