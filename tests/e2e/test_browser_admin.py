"""What an admin does in a real browser: bars and lets in, takes trainers out of service, sets limits."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys

import httpx
import pytest

from tests.e2e.browser import Visit
from tests.e2e.running_mesh import PASSWORD, RunningMesh, SignedIn

# The first test waits for the mesh and the browser, too.
pytestmark = pytest.mark.timeout(900)


async def make_admin(stack: RunningMesh) -> SignedIn:
    """Signs a user up and makes them an admin, as an operator does."""
    user = await stack.sign_up("root")
    command = [sys.executable, "-m", "auth_svc", "grant-admin", user.username]
    settings = stack.listener("auth").environ()
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60, env=settings)
    return user


async def log_in(visit: Visit, username: str) -> None:
    await visit.open("/login")
    await visit.page.get_by_label("Username or e-mail").fill(username)
    await visit.page.get_by_label("Password").fill(PASSWORD)
    await visit.page.get_by_role("button", name="Log in").click()
    await visit.page.get_by_role("heading", name="Datasets").wait_for()


async def log_in_by_api(stack: RunningMesh, user: SignedIn) -> httpx.Response:
    return await stack.http.post("/v1/auth/login", json={"username": user.username, "password": PASSWORD})


async def may_log_in(stack: RunningMesh, user: SignedIn) -> int:
    return (await log_in_by_api(stack, user)).status_code


async def assert_told_when_cut_off(visit: Visit) -> None:
    """A page that reads anew by itself says that it cannot, and goes on when it can."""
    lost = visit.page.get_by_text("The service cannot be reached. What is shown may be old")
    await visit.page.context.set_offline(True)
    await lost.wait_for()
    assert await visit.violations() == []
    await visit.page.context.set_offline(False)
    await lost.wait_for(state="hidden")
    visit.complaints.clear()  # the browser counts each lost call among a page's errors


async def test_an_admin_bars_a_user_drains_a_trainer_and_sets_limits(visit: Visit, stack: RunningMesh) -> None:
    page = visit.page
    admin, other = await make_admin(stack), await stack.sign_up("other")
    await log_in(visit, admin.username)
    await page.get_by_role("link", name="Admin").click()
    await page.get_by_label("Find").fill(other.username)
    bar = page.get_by_role("button", name=f"Bar: {other.username}")
    await bar.click()
    assert await visit.violations() == []
    await page.keyboard.press("Escape")
    assert await may_log_in(stack, other) == 200, "nothing is done that was only asked"
    await bar.click()
    await page.get_by_role("dialog").get_by_role("button", name="Bar", exact=True).click()
    await page.get_by_text("barred", exact=True).wait_for()
    assert await may_log_in(stack, other) == 403
    await page.get_by_role("button", name=f"Let in again: {other.username}").click()
    await page.get_by_role("dialog").get_by_role("button", name="Let in again", exact=True).click()
    await bar.wait_for()
    # What was handed out before ends with the barring, as soon as every service has heard of it.
    tokens = (await log_in_by_api(stack, other)).json()["tokens"]
    let_in = {"authorization": f"Bearer {tokens['accessToken']}"}

    await page.get_by_role("button", name=f"Limits: {other.username}").click()
    dialog = page.get_by_role("dialog", name=f"Limits of {other.username}")
    await dialog.get_by_label("Jobs at once").fill("2")
    await dialog.get_by_label("Storage, in GB").fill("0.5")
    assert await visit.violations() == []
    await dialog.get_by_role("button", name="Save").click()
    await dialog.wait_for(state="hidden")
    mine = (await stack.http.get("/v1/quotas/me", headers=let_in)).json()
    assert (mine["isDefault"], mine["runningJobs"], mine["storageBytes"]) == (False, 2, "500000000")
    await page.get_by_role("tab", name="Limits").click()
    await page.get_by_text("2 jobs at once · 500 MB").wait_for()
    assert await visit.violations() == []
    await page.get_by_role("button", name=f"Limits: {other.username}").click()
    await dialog.get_by_role("button", name="Take own limits away").click()
    await page.get_by_role("button", name="Take them away").click()
    await page.get_by_text("2 jobs at once · 500 MB").wait_for(state="hidden")
    assert (await stack.http.get("/v1/quotas/me", headers=let_in)).json()["isDefault"] is True

    await page.get_by_role("tab", name="Trainers").click()
    await page.get_by_role("button", name="Take out of service: ").first.click()
    await page.get_by_role("dialog").get_by_role("button", name="Take out of service", exact=True).click()
    await page.get_by_text("out of service", exact=True).wait_for()
    assert await visit.violations() == []
    await page.get_by_role("button", name="Put into service: ").first.click()
    await page.get_by_role("dialog").get_by_role("button", name="Put into service", exact=True).click()
    await page.get_by_text("free", exact=True).wait_for()
    await assert_told_when_cut_off(visit)
    await page.get_by_role("tab", name="Storage").click()
    await page.get_by_text("Each byte counts once").wait_for()
    assert await visit.violations() == []


async def test_the_last_admin_stays_and_others_do_not_see_the_page(visit: Visit, stack: RunningMesh) -> None:
    page = visit.page
    await visit.sign_up(f"ada-{secrets.token_hex(4)}")
    assert await page.get_by_role("link", name="Admin").count() == 0
    await visit.open("/admin")
    await page.get_by_text("This page is for admins").wait_for()
    assert await visit.violations() == []
    await page.get_by_role("button", name="Log out").click()
    await page.get_by_role("heading", name="Welcome back").wait_for()

    admin = await make_admin(stack)
    await log_in(visit, admin.username)
    me = (await stack.http.post("/v1/auth/login", json={"username": admin.username, "password": PASSWORD})).json()
    headers = {"authorization": f"Bearer {me['tokens']['accessToken']}"}
    everybody = (await stack.http.get("/v1/users", params={"pageSize": 1000}, headers=headers)).json()["users"]
    for user in everybody:
        if "ROLE_ADMIN" in user["roles"] and user["username"] != admin.username:
            path = f"/v1/users/{user['id']}?updateMask=roles"
            await stack.http.patch(path, json={"roles": ["ROLE_USER"]}, headers=headers)
    await visit.open("/admin")
    await page.get_by_role("button", name=f"Take admin away: {admin.username}").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Take it away").click()
    await dialog.get_by_role("alert").filter(has_text="It was not done").wait_for()
    assert await visit.violations() == []
