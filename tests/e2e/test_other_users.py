"""User B on everything that user A has, through the edge: the same answer as for what does not exist."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.running_mesh import RunningMesh, SignedIn

ABSENT = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
SHA256 = "0" * 64
ATTEMPTS: dict[str, list[tuple[str, str, dict[str, Any] | None]]] = {
    "datasets": [
        ("GET", "/v1/datasets/{id}", None),
        ("GET", "/datasets/{id}", None),
        ("PATCH", "/v1/datasets/{id}?updateMask=name", {"name": "mine"}),
        ("DELETE", "/v1/datasets/{id}", None),
        ("POST", "/v1/datasets/{id}/validate", {}),
        ("GET", "/v1/datasets/{id}/watch", None),
        ("GET", "/v1/datasets/{id}/issues", None),
        ("GET", "/v1/datasets/{id}/samples", None),
        ("GET", "/v1/datasets/{id}/files", None),
        ("DELETE", "/v1/datasets/{id}/files/a.mp4", None),
        ("POST", "/v1/uploads", {"file": {"parentId": "{id}", "path": "a.mp4", "sizeBytes": 1, "sha256": SHA256}}),
    ],
    "models": [
        ("GET", "/v1/models/{id}", None),
        ("GET", "/models/{id}", None),
        ("PATCH", "/v1/models/{id}?updateMask=name", {"name": "mine"}),
        ("DELETE", "/v1/models/{id}", None),
        ("POST", "/v1/models/{id}/validate", {}),
        ("GET", "/v1/models/{id}/watch", None),
        ("GET", "/v1/models/{id}/files", None),
        ("POST", "/v1/uploads", {"file": {"parentId": "{id}", "path": "a.json", "sizeBytes": 1, "sha256": SHA256}}),
    ],
}
PREFIXES = {"datasets": "ds", "models": "mdl"}


@pytest.mark.parametrize("kind", ATTEMPTS)
async def test_another_users_thing_is_as_if_it_were_not_there(stack: RunningMesh, kind: str) -> None:
    owner, stranger = await stack.sign_up("owner"), await stack.sign_up("stranger")
    made = await stack.http.post(f"/v1/{kind}", json={"name": "private"}, headers=owner.headers)
    assert made.status_code == 200, made.text
    real = made.json()["id"]
    absent = f"{PREFIXES[kind]}_{ABSENT}"

    for method, path, body in ATTEMPTS[kind]:
        foreign = await attempt(stack, stranger, method, path, body, real)
        missing = await attempt(stack, stranger, method, path, body, absent)
        assert foreign[0] == 404, f"{method} {path}: {foreign}"
        assert foreign == missing, f"{method} {path}"

    still_there = await stack.http.get(f"/v1/{kind}/{real}", headers=owner.headers)
    assert still_there.json()["name"] == "private"
    listed = await stack.http.get(f"/v1/{kind}", headers=stranger.headers)
    assert real not in listed.text


async def test_a_user_cannot_do_what_is_for_admins(stack: RunningMesh) -> None:
    user = await stack.sign_up()

    listed = await stack.http.get("/v1/users", headers=user.headers)
    promoted = await stack.http.patch(
        f"/v1/users/{user.user_id}?updateMask=roles", json={"roles": ["ROLE_ADMIN"]}, headers=user.headers
    )

    for answer in (listed, promoted):
        assert (answer.status_code, answer.json()["code"]) == (403, 7)
        assert answer.json()["details"][0]["reason"] == "ROLE_REQUIRED"


async def attempt(
    mesh: RunningMesh, user: SignedIn, method: str, path: str, body: dict[str, Any] | None, thing: str
) -> tuple[int, str]:
    """Returns status and body, with the id that was asked for blotted out."""
    filled = None if body is None else with_id(body, thing)
    answer = await mesh.http.request(method, path.replace("{id}", thing), json=filled, headers=user.headers)
    return answer.status_code, answer.text.replace(thing, "ID")


def with_id(body: Any, thing: str) -> Any:
    if isinstance(body, dict):
        return {name: with_id(value, thing) for name, value in body.items()}
    return body.replace("{id}", thing) if isinstance(body, str) else body
