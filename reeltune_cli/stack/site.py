"""The browser's pages: what `make web` has built, and with which headers the edge serves it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SITE_FOLDER = Path(__file__).resolve().parents[1] / "web_ui"
"""Filled by `make web`, and part of a wheel that was built after it."""
_MANIFEST = "site.json"
_HOME = "/app"
_MISSING = f"{_HOME}/404"

_EVERYWHERE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PERMISSIONS = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


@dataclass(frozen=True, slots=True)
class SitePage:
    """One address of the site."""

    path: str
    file: Path
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Site:
    """All addresses of the site."""

    pages: tuple[SitePage, ...]

    @property
    def largest_file_bytes(self) -> int:
        """What the edge must be ready to hold."""
        return max(page.file.stat().st_size for page in self.pages)

    @property
    def missing(self) -> SitePage | None:
        """What is shown in place of a page that is not there."""
        return next((page for page in self.pages if page.path == _MISSING), None)

    @property
    def routes(self) -> list[tuple[str, int, SitePage]]:
        """How the edge finds a page (the match of a route), the status that it answers with, and the page."""
        found = [(f"path: {json.dumps(page.path)}", 200, page) for page in self.pages if page is not self.missing]
        return [*found, (f"prefix: {_HOME}/", 404, self.missing)] if self.missing else found

    @property
    def home(self) -> str:
        """Where `/` leads."""
        return _HOME


def load_site(folder: Path = SITE_FOLDER, *, object_origins: Iterable[str] = ()) -> Site | None:
    """Returns the built site, or None where nobody has built it.

    `object_origins` are the origins of presigned URLs (`https://host:port`): pages send files there and show clips
    from there.
    """
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        return None
    pages = json.loads(manifest.read_text("utf-8"))["pages"]
    return Site(tuple(_page(folder, page, tuple(object_origins)) for page in pages))


def content_security_policy(script_hashes: Iterable[str], object_origins: Iterable[str]) -> str:
    """Returns the policy of a page: scripts of this origin, the inline ones by digest, and nothing else runs.

    `wasm-unsafe-eval` lets WebAssembly be compiled, which the digests of files are computed with; it opens no way to
    evaluate text.
    """
    objects = " ".join(("", *dict.fromkeys(object_origins)))
    scripts = "".join(f" '{digest}'" for digest in script_hashes)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'wasm-unsafe-eval'{scripts}",
            "style-src 'self'",
            "font-src 'self'",
            f"img-src 'self' blob: data:{objects}",
            f"media-src 'self' blob:{objects}",
            f"connect-src 'self'{objects}",
            "worker-src 'self'",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def _page(folder: Path, page: dict[str, object], object_origins: tuple[str, ...]) -> SitePage:
    content_type = str(page["content_type"])
    headers = {"content-type": content_type, "cache-control": str(page["cache_control"]), **_EVERYWHERE}
    if page["is_compressed"]:
        headers["content-encoding"] = "gzip"  # every browser takes it; `curl --compressed`, too
    if content_type.startswith("text/html"):
        digests = page["script_hashes"]
        assert isinstance(digests, list)
        headers["content-security-policy"] = content_security_policy(digests, object_origins)
        headers["permissions-policy"] = _PERMISSIONS
    elif content_type.startswith("text/javascript"):
        # What a worker may do says the policy of its own script.
        headers["content-security-policy"] = content_security_policy((), object_origins)
    return SitePage(str(page["path"]), folder / str(page["file"]), tuple(headers.items()))
