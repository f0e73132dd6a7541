"""Shows when the certificate ends that a process has loaded, which it reads once, at its start."""

from __future__ import annotations

import math
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates
from prometheus_client import CollectorRegistry, Gauge


def show_certificate_end(chain: Path | None, registry: CollectorRegistry) -> None:
    """Adds the gauge `reeltune_certificate_end_timestamp_seconds`: when the first of the PEM chain ends, NaN for None.

    A new file changes nothing of it: it is not in use before the process has started again.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no certificate.
    """
    end = Gauge(
        "reeltune_certificate_end_timestamp_seconds",
        "When the certificate ends that this process shows the others; NaN: it has none",
        registry=registry,
    )
    end.set(math.nan if chain is None else _end(chain))


def _end(chain: Path) -> float:
    try:
        return min(each.not_valid_after_utc.timestamp() for each in load_pem_x509_certificates(chain.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{chain} holds no certificate in PEM form: {error}") from error
