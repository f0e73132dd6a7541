"""A private certificate authority, the edge's certificate and those of the services, made on the first start."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshkit.rpc.peers import TRUST_DOMAIN

_CA_LIFETIME = dt.timedelta(days=3650)
_SERVER_LIFETIME = dt.timedelta(days=397)  # what browsers accept at most
_RENEW_BEFORE = dt.timedelta(days=30)
_CLOCK_DIFFERENCE = dt.timedelta(hours=1)
"""How far behind the clock of a machine may be that is to trust a certificate from its first minute on."""
DEFAULT_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class EdgeCertificates:
    """Where the files are; keys have mode 0600."""

    ca: Path
    """PEM of the authority: what clients need."""
    certificate: Path
    key: Path


def ensure_certificates(folder: Path, names: tuple[str, ...] = DEFAULT_NAMES) -> EdgeCertificates:
    """Returns the authority and a server certificate for these names and addresses; makes what is missing or runs out.

    The authority stays the same for ten years, so that clients which trust it go on doing so. One that cannot be read
    is therefore not replaced; a server certificate is.

    Raises:
        ValueError: the authority's files are damaged; the text says what to do.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = EdgeCertificates(folder / "ca.pem", folder / "edge.pem", folder / "edge.key")
    ca_key_path = folder / "ca.key"
    if not _is_good_authority(files.ca, ca_key_path):
        ca_key = ec.generate_private_key(ec.SECP256R1())
        _write_pair(files.ca, ca_key_path, _ca_certificate(ca_key), ca_key)
        files.certificate.unlink(missing_ok=True)  # signed by the former authority
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    if not _is_good(files.certificate, files.key, _subjects(names), ca):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _leaf(key, names[0], _subjects(names), [ExtendedKeyUsageOID.SERVER_AUTH], ca, _load_key(ca_key_path))
        _write_pair(files.certificate, files.key, leaf, key)
    return files


def ensure_service_certificate(authority: Path, folder: Path, identity: str, names: tuple[str, ...]) -> None:
    """Makes `tls.crt`, `tls.key` and `ca.crt` of one service in `folder`, where they are missing or run out.

    The certificate is good for the identity `spiffe://reeltune/IDENTITY`, as a server under these names and as a
    client. The files are named as in a Kubernetes secret of type `kubernetes.io/tls`, so that whoever reads them need
    not know who made them. `authority` is the folder of `ensure_certificates`. A `ca.crt` that holds its certificate
    among others stays: so an authority is replaced, the new one trusted beside the old one first.

    Raises:
        ValueError: the authority's files are damaged.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_path, ca_key = authority / "ca.pem", _load_key(authority / "ca.key")
    subjects = (*_subjects(names), x509.UniformResourceIdentifier(f"{TRUST_DOMAIN}{identity}"))
    ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
    if not _is_among(ca, folder / "ca.crt"):
        (folder / "ca.crt").write_bytes(ca_path.read_bytes())
    if _is_good(folder / "tls.crt", folder / "tls.key", subjects, ca):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    _write_pair(folder / "tls.crt", folder / "tls.key", _leaf(key, identity, subjects, usages, ca, ca_key), key)


def is_of_another_authority(certificate: Path, authority: Path) -> bool:
    """Whether this is a certificate, and one that no authority of ours has made, the present one or a former."""
    try:
        issuer = x509.load_pem_x509_certificate(certificate.read_bytes()).issuer
    except (FileNotFoundError, ValueError):
        return False
    return issuer != x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes()).subject


def _is_among(certificate: x509.Certificate, bundle: Path) -> bool:
    try:
        return certificate in x509.load_pem_x509_certificates(bundle.read_bytes())
    except (FileNotFoundError, ValueError):
        return False


def _is_good_authority(certificate: Path, key: Path) -> bool:
    if not certificate.exists() or not key.exists():
        return False
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        _load_key(key)
    except ValueError as error:
        raise ValueError(
            f"{certificate} or {key} is damaged; restore them from a backup, or remove both to have a new authority "
            "made, which every client then has to trust anew"
        ) from error
    return not _runs_out(loaded)


def _is_good(certificate: Path, key: Path, subjects: Sequence[x509.GeneralName], ca: x509.Certificate) -> bool:
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        _load_key(key)
        loaded.verify_directly_issued_by(ca)
    except (FileNotFoundError, ValueError, InvalidSignature):
        return False  # missing, cut by a full disk, or of a former authority: another is as good
    if _runs_out(loaded):
        return False
    return set(loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == set(subjects)


def _runs_out(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) < _RENEW_BEFORE


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Reeltune private authority")])
    return (
        _builder(name, name, key, _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    subjects: Sequence[x509.GeneralName],
    usages: list[x509.ObjectIdentifier],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), ca.subject, key, _SERVER_LIFETIME)
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_DIFFERENCE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subjects(names: tuple[str, ...]) -> tuple[x509.GeneralName, ...]:
    return tuple(_subject(name) for name in names)


def _subject(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic-curve key; remove it and its certificate to have new ones made")
    return key


def _write_pair(
    certificate_path: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_path.unlink(missing_ok=True)
    descriptor = os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
