"""Quotas and trainers over HTTP and JSON at the edge, for users and for those who only think they are admins."""

from __future__ import annotations

import pytest

from tests.e2e.running_mesh import RunningMesh

WORKER = "wrk_01ARZ3NDEKTSV4RRFFQ69G5FAV"
FOR_ADMINS = [
    ("GET", "/v1/quotas", None),
    ("GET", "/v1/quotas/default", None),
    ("PATCH", "/v1/quotas/default?updateMask=runningJobs,queuedJobs", {"runningJobs": 1}),
    ("DELETE", "/v1/quotas/default", None),
    ("POST", f"/v1/workers/{WORKER}/drain", {}),
    ("POST", f"/v1/workers/{WORKER}/resume", {}),
]


async def test_a_user_sees_their_own_quota(stack: RunningMesh) -> None:
    user = await stack.sign_up()
    answer = await stack.http.get("/v1/quotas/me", headers=user.headers)
    assert answer.status_code == 200, answer.text
    quota = answer.json()
    assert (quota["userId"], quota["isDefault"]) == (user.user_id, True)
    assert "runningJobs" not in quota


@pytest.mark.parametrize(("method", "path", "body"), FOR_ADMINS)
async def test_what_is_for_admins_is_refused_to_users(
    stack: RunningMesh, method: str, path: str, body: dict[str, object] | None
) -> None:
    user = await stack.sign_up()
    answer = await stack.http.request(method, path, json=body, headers=user.headers)
    assert answer.status_code == 403, answer.text
    assert answer.json()["details"][0]["reason"] == "ROLE_REQUIRED"
