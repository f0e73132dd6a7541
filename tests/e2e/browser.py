"""A real Chromium before the pages that the mesh serves.

It comes from the package registry, unpacked by tools/browser/unpack.mjs, so that a machine needs no desktop and no
other host.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import platform
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from reeltune_cli.stack.site import SITE_FOLDER
from tests.e2e.grpc_web import node
from tests.e2e.running_mesh import PASSWORD, RunningMesh

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page, Request

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "browser"
PATIENCE_MS = 90_000
"""How long a page may take to show something, on a loaded machine."""
REQUIRED = "REELTUNE_REQUIRE_BROWSER"
"""Set by `make test`: what is missing is then a failure."""

UNPACK_SECONDS = 600
"""How long the browser may take to be unpacked."""
START_MS = 240_000
"""How long the browser may take to start."""

# A service that is overloaded for a moment is asked again by the page: the browser notes each refusal as an error.
_PASSING = re.compile(r"Failed to load resource: the server responded with a status of (429|5\d\d)")
_NEXT_PAINT = "() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))"


@dataclass
class Visit:
    """One page, and what went wrong on it unseen."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    """Each PUT that the object store answered: the path, and after `#` the number of the part."""

    async def open(self, path: str) -> None:
        """Goes to a page of the site."""
        await self.page.goto(f"{self.url}/app{path}")

    async def sign_up(self, username: str) -> None:
        """Makes an account as a person would, and ends on the list of datasets."""
        await self.open("/signup")
        await self.page.get_by_label("Username").fill(username)
        await self.page.get_by_label("E-mail").fill(f"{username}@example.com")
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Create account").click()
        await self.page.get_by_role("heading", name="Datasets").wait_for()

    async def make_dataset(self, name: str) -> None:
        """Makes a dataset and ends on its page."""
        await self.open("/datasets")
        await self.page.get_by_role("button", name="New dataset").click()
        await self.page.get_by_label("Name", exact=True).fill(name)
        await self.page.get_by_role("button", name="Create", exact=True).click()
        await self.page.get_by_text("Drop files or a folder here").wait_for()

    async def choose(self, *files: Path) -> None:
        """Chooses files in the file chooser."""
        async with self.page.expect_file_chooser() as chooser:
            await self.page.get_by_role("button", name="Choose files").click()
        await (await chooser.value).set_files(files)

    async def violations(self) -> list[str]:
        """What axe says against the page as it is, in the light theme and in the dark one."""
        found = []
        for theme in ("light", "dark"):
            await self.page.evaluate(
                "theme => document.documentElement.classList.toggle('dark', theme === 'dark')", theme
            )
            await self.page.evaluate(_NEXT_PAINT)
            await self.page.evaluate((TOOLS / "node_modules" / "axe-core" / "axe.min.js").read_text())
            report: dict[str, Any] = await self.page.evaluate("axe.run({ resultTypes: ['violations'] })")
            found += [
                f"{theme}: {violation['id']}: {node['target']} {node['failureSummary']}"
                for violation in report["violations"]
                for node in violation["nodes"]
            ]
        return found


@functools.cache
def _unpacked() -> tuple[str, dict[str, str]]:
    made = subprocess.run(
        [node(), str(TOOLS / "unpack.mjs")], capture_output=True, text=True, timeout=UNPACK_SECONDS, check=False
    )
    assert made.returncode == 0, f"the browser could not be unpacked: {made.stderr}"
    said = json.loads(made.stdout)
    return said["executable"], said["environment"]


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Runs the browser."""
    from playwright.async_api import async_playwright

    executable, environment = _unpacked()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable,
            env={**os.environ, **environment},
            # Root has no sandbox, and a container's /dev/shm is small.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=START_MS,
        )
        yield browser
        await browser.close()


@contextlib.asynccontextmanager
async def visiting(browser: Browser, mesh: RunningMesh) -> AsyncIterator[Visit]:
    """Opens a fresh profile; a script that the policy stopped, or an error of the page, fails the test."""
    # The mesh's own authority is not one that this browser knows; the tests of the edge verify its certificates.
    context = await browser.new_context(ignore_https_errors=True, reduced_motion="reduce", locale="en-US")
    context.set_default_timeout(PATIENCE_MS)
    page = await context.new_page()
    visit = Visit(page, mesh.url)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda said: _note_error(visit, said))
    page.on("dialog", lambda dialog: dialog.accept())
    page.on("requestfinished", lambda request: _note_put(visit, request))
    yield visit
    await context.close()
    assert visit.complaints == []


def _note_error(visit: Visit, said: ConsoleMessage) -> None:
    if said.type == "error" and not _PASSING.match(said.text):
        visit.complaints.append(said.text)


def _note_put(visit: Visit, request: Request) -> None:
    if request.method == "PUT":
        address = urlsplit(request.url)
        number = parse_qs(address.query).get("partNumber", ["1"])[0]
        visit.sent.append(f"{address.path}#{number}")


def skip_without_browser() -> None:
    """Skips, loudly, or fails under `make test`, where the pages are not built or there is no browser."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(
            f"NOT TESTED IN A BROWSER: the registry's Chromium is for x86_64, this machine is {platform.machine()}"
        )
    missing = []
    if not (SITE_FOLDER / "site.json").is_file():
        missing.append("the pages are not built: make web")
    if not (TOOLS / "node_modules" / "@sparticuz" / "chromium").is_dir():
        missing.append("there is no Chromium: npm --prefix tools/browser ci")
    if importlib.util.find_spec("playwright") is None:
        missing.append("playwright is not installed: pip install playwright")
    if not missing:
        return
    text = f"NOT TESTED IN A BROWSER: {'; '.join(missing)}"
    if os.environ.get(REQUIRED):
        pytest.fail(text)
    pytest.skip(text)
