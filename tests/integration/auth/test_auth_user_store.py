from __future__ import annotations

import asyncio

import pytest

from auth_svc.domain.errors import EmailTaken, EtagMismatch, LastAdmin, SessionEnded, UsernameTaken, UserNotFound
from auth_svc.domain.session import SessionId
from auth_svc.domain.user import Role, User, UserChange, UserId
from auth_svc.rpc.convert import user_query_from_filter
from auth_svc.store.session_store import SessionStore
from auth_svc.store.user_store import UserQuery, UserStore
from meshkit.ids import new_id
from meshkit.postgres import Pool

BAR = UserChange(disabled=True)
DEMOTE = UserChange(roles=frozenset({Role.USER}))


async def add(users: UserStore, name: str) -> User:
    return await users.add(UserId(new_id("usr")), name, f"{name}@example.org", "hash")


async def add_admin(users: UserStore, name: str) -> User:
    user = await add(users, name)
    await users.grant_admin(name)
    return await users.get(user.id)


async def test_a_new_user_is_an_ordinary_one(users: UserStore, ada: User) -> None:
    assert ada.roles == {Role.USER}
    assert not ada.disabled
    assert ada.create_time == ada.update_time
    assert await users.get(ada.id) == ada


async def test_names_are_unique_without_regard_to_case(users: UserStore, ada: User) -> None:
    with pytest.raises(UsernameTaken):
        await users.add(UserId(new_id("usr")), "aDA", "other@example.org", "hash")
    with pytest.raises(EmailTaken):
        await users.add(UserId(new_id("usr")), "other", "ADA@example.ORG", "hash")
    with pytest.raises(UsernameTaken):
        await users.check_names_are_free("ADA", "other@example.org")
    with pytest.raises(EmailTaken):
        await users.check_names_are_free("other", "ada@EXAMPLE.org")
    await users.check_names_are_free("other", "other@example.org")


async def test_of_many_who_sign_up_with_one_name_one_succeeds(users: UserStore) -> None:
    results = await asyncio.gather(
        *(users.add(UserId(new_id("usr")), "bob", f"bob{n}@example.org", "hash") for n in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, User) for result in results) == 1
    assert sum(isinstance(result, UsernameTaken) for result in results) == 9


@pytest.mark.parametrize("name", ["ada", "ADA", "ada@example.org", "Ada@Example.Org"])
async def test_username_and_email_both_find_the_credentials(users: UserStore, ada: User, name: str) -> None:
    found = await users.find_credentials(name)
    assert found is not None
    assert found.user == ada
    assert found.password_hash == "hash-of-ada"


@pytest.mark.parametrize("name", ["", "nobody", "ada\0", "ada' OR '1'='1", "%"])
async def test_unknown_names_find_nothing(users: UserStore, ada: User, name: str) -> None:
    assert await users.find_credentials(name) is None


async def test_a_hash_is_upgraded_only_from_what_was_read(users: UserStore, ada: User) -> None:
    await users.upgrade_password_hash(ada.id, "another-hash", "new-hash")
    before = await users.find_credentials("ada")
    await users.upgrade_password_hash(ada.id, "hash-of-ada", "new-hash")
    after = await users.find_credentials("ada")
    assert before is not None
    assert after is not None
    assert (before.password_hash, after.password_hash) == ("hash-of-ada", "new-hash")


async def test_granting_admin_again_changes_nothing(users: UserStore, ada: User) -> None:
    assert await users.grant_admin("ADA") == ada.id
    once = await users.get(ada.id)
    assert once.roles == {Role.USER, Role.ADMIN}
    await users.grant_admin("ada")
    assert await users.get(ada.id) == once
    with pytest.raises(UserNotFound):
        await users.grant_admin("nobody")


async def test_an_update_changes_the_etag_and_refuses_an_old_one(users: UserStore, ada: User) -> None:
    changed = await users.update(ada.id, BAR, ada.etag)
    assert changed.disabled
    assert changed.etag != ada.etag
    assert changed.update_time > ada.update_time
    with pytest.raises(EtagMismatch):
        await users.update(ada.id, UserChange(disabled=False), ada.etag)
    assert await users.get(ada.id) == changed
    with pytest.raises(UserNotFound):
        await users.update(UserId(new_id("usr")), BAR, "")


async def test_barring_a_user_ends_their_sessions(users: UserStore, sessions: SessionStore, ada: User) -> None:
    session_id = SessionId(new_id("ses"))
    await sessions.open(session_id, ada.id, "refresh-token", "192.0.2.1")
    await users.update(ada.id, BAR, "")
    with pytest.raises(SessionEnded):
        await sessions.get_live_user(session_id, ada.id)


@pytest.mark.parametrize("change", [BAR, DEMOTE])
async def test_the_last_admin_stays(users: UserStore, change: UserChange) -> None:
    root = await add_admin(users, "root")
    barred = await add_admin(users, "barred")
    await users.update(barred.id, BAR, "")
    with pytest.raises(LastAdmin):
        await users.update(root.id, change, "")
    assert await users.get(root.id) == root
    await add_admin(users, "deputy")
    assert not (await users.update(root.id, change, "")).manages_users


async def test_two_admins_cannot_remove_each_other_at_once(users: UserStore, pool: Pool) -> None:
    for round_number in range(5):
        pair = [await add_admin(users, f"admin{round_number}{which}") for which in "ab"]
        results = await asyncio.gather(*(users.update(admin.id, DEMOTE, "") for admin in pair), return_exceptions=True)
        assert sum(isinstance(result, LastAdmin) for result in results) == 1
        assert await pool.fetchval("SELECT count(*) FROM users WHERE 'admin' = ANY (roles)") == 1
        await pool.execute("UPDATE users SET roles = '{user}'")


async def test_pages_are_complete_and_stable_while_users_come(users: UserStore, pool: Pool) -> None:
    made = [await add(users, f"user{n:02}") for n in range(25)]
    # Equal times must not lose or repeat anybody.
    await pool.execute("UPDATE users SET create_time = date_trunc('second', create_time)")
    seen: list[str] = []
    after = None
    while page := await users.list_page(UserQuery(), after, 7):
        seen += [user.id for user in page]
        after = (page[-1].create_time, page[-1].id)
        await add(users, f"late{len(seen)}")
    assert seen == sorted((user.id for user in made), reverse=True)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", {"ada", "Adam", "eve_1", "evex1"}),
        ("username : AD", {"ada", "Adam"}),
        ("username = adam", {"Adam"}),
        ('username : "eve_"', {"eve_1"}),
        ("username : a AND username : m", {"Adam"}),
        ("username != ada AND email : example.org", {"Adam", "eve_1", "evex1"}),
        ("disabled = true", {"evex1"}),
        ("disabled != true AND username : eve", {"eve_1"}),
        ("disabled = true AND disabled = false", set()),
        ('username : "%"', set()),
    ],
)
async def test_filters(users: UserStore, text: str, names: set[str]) -> None:
    for name in ("ada", "Adam", "eve_1", "evex1"):
        await add(users, name)
    evex = await users.find_credentials("evex1")
    assert evex is not None
    await users.update(evex.user.id, BAR, "")
    found = await users.list_page(user_query_from_filter(text), None, 10)
    assert {user.username for user in found} == names
