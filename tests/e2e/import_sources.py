"""What the mesh of the end-to-end tests may import from: a web server with TLS, a bucket, a folder."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshkit.blob import BlobStore
from meshkit.embedded import S3Server
from meshkit.testing.plugin import S3_IDENTITY
from reeltune_cli.stack.certificates import ensure_certificates
from tests.rpc.catalog.web_source import WebSource, web_source

BUCKET = "import-source"


@dataclass(frozen=True, slots=True)
class ImportSources:
    """The places, and the settings with which they are tolerated."""

    web: WebSource
    bucket: BlobStore
    store: str
    """The bucket's address."""
    folder: Path
    settings: Mapping[str, str]


@contextlib.asynccontextmanager
async def import_sources(folder: Path, s3_server: S3Server) -> AsyncIterator[ImportSources]:
    """Runs the web server; it also plays a hub."""
    certificates = ensure_certificates(folder / "certificates")
    allowed = folder / "allowed"
    allowed.mkdir()
    bucket = BlobStore(s3_server.endpoint, S3_IDENTITY.access_key, S3_IDENTITY.secret_key, BUCKET)
    await bucket.ensure_bucket()
    async with web_source(certificates) as web:
        settings = {
            "CATALOG_IMPORT_TEST_HOSTS": f"{web.host},{s3_server.endpoint}",
            "CATALOG_IMPORT_CA_FILE": str(certificates.ca),
            "CATALOG_IMPORT_HUB_URL": web.url(""),
            "CATALOG_IMPORT_FOLDERS": str(allowed),
        }
        yield ImportSources(web, bucket, f"http://{s3_server.endpoint}", allowed, settings)
    await bucket.close()
