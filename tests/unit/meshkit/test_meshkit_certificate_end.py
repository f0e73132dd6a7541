"""When certificates end is shown as it was loaded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificate
from prometheus_client import CollectorRegistry

from meshkit.telemetry.certificate import show_certificate_end
from reeltune_cli.stack.certificates import ensure_certificates

NAME = "reeltune_certificate_end_timestamp_seconds"


def test_the_first_end_of_a_chain_is_shown_until_the_next_start(tmp_path: Path) -> None:
    made = ensure_certificates(tmp_path / "made")
    authority = load_pem_x509_certificate(made.ca.read_bytes())
    leaf = load_pem_x509_certificate(made.certificate.read_bytes())
    assert leaf.not_valid_after_utc < authority.not_valid_after_utc
    chain = tmp_path / "chain.pem"
    chain.write_bytes(made.ca.read_bytes() + made.certificate.read_bytes())
    registry = CollectorRegistry()
    show_certificate_end(chain, registry)
    chain.unlink()
    assert registry.get_sample_value(NAME) == leaf.not_valid_after_utc.timestamp()


def test_of_a_process_without_one_no_alert_rings(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    show_certificate_end(None, registry)
    value = registry.get_sample_value(NAME)
    assert value is not None
    assert math.isnan(value)


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text("nothing")
    with pytest.raises(ValueError, match=r"tls\.crt holds no certificate"):
        show_certificate_end(tmp_path / "tls.crt", CollectorRegistry())
