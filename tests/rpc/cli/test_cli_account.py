from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

from meshkit.testing import assert_eventually
from reeltune_cli.client import Client, Credentials, Endpoint, FileCredentials
from tests.rpc.auth.auth_mesh import PASSWORD, AuthMesh
from tests.rpc.cli.conftest import Run


def plain(mesh: AuthMesh) -> str:
    return f"http://{mesh.served.address}"


async def test_from_sign_up_to_sign_out(mesh: AuthMesh, run: Run, home: Path) -> None:
    endpoint = plain(mesh)
    done = await run(
        "signup", "ada", "--email", "ada@example.org", "--password-stdin", endpoint=endpoint, stdin=PASSWORD
    )
    assert (done.exit_code, done.stdout) == (0, f"signed up and signed in as ada at {mesh.served.address}\n")
    assert stat.S_IMODE((home / "credentials.json").stat().st_mode) == 0o600
    done = await run("whoami", endpoint=endpoint)
    assert done.exit_code == 0
    assert "ada@example.org" in done.stdout
    done = await run("logout", endpoint=endpoint)
    assert (done.exit_code, done.stdout) == (0, "signed out ada\n")
    done = await run("whoami", endpoint=endpoint)
    assert done.exit_code == 1
    assert "NOT_SIGNED_IN" in done.stderr
    assert "reeltune login" in done.stderr
    done = await run("login", endpoint=endpoint, stdin=f"ada@example.org\n{PASSWORD}\n")
    assert done.exit_code == 0
    assert PASSWORD not in done.output
    assert await mesh.pool.fetchval("SELECT count(*) FROM sessions WHERE end_time IS NULL") == 1


async def test_json_is_one_document_on_stdout(mesh: AuthMesh, run: Run) -> None:
    endpoint = plain(mesh)
    await mesh.sign_up("ada")
    for arguments, stdin in (
        (("login", "ada", "--password-stdin"), PASSWORD),
        (("whoami",), ""),
        (("logout",), ""),
    ):
        done = await run(*arguments, "--output", "json", endpoint=endpoint, stdin=stdin)
        assert done.exit_code == 0, done.stderr
        document = json.loads(done.stdout)
        assert document.get("user", {}).get("username", document.get("username")) == "ada"
    done = await run("whoami", "-o", "json", endpoint=endpoint)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["reason"] == "NOT_SIGNED_IN"


async def test_a_refused_password_names_its_field_and_shows_no_traceback(mesh: AuthMesh, run: Run) -> None:
    done = await run(
        "signup", "ada", "--email", "not an address", "--password-stdin", endpoint=plain(mesh), stdin="short"
    )
    assert done.exit_code == 1
    assert "FIELD_INVALID" in done.stderr
    assert done.stderr.count("email:") == 1
    assert done.stderr.count("password:") == 1
    assert "Traceback" not in done.output


async def test_wrong_passwords_and_wrong_usage_have_their_exit_codes(mesh: AuthMesh, run: Run) -> None:
    done = await run("login", "ada", "--password-stdin", endpoint=plain(mesh), stdin="wrong password here")
    assert (done.exit_code, "CREDENTIALS_INVALID" in done.stderr) == (1, True)
    done = await run("login", "--no-such-option", endpoint=plain(mesh))
    assert done.exit_code == 2
    done = await run("dataset", "upload", "/no/such/folder", endpoint=plain(mesh))
    assert done.exit_code == 2
    done = await run("login", "ada", "--password-stdin", endpoint=plain(mesh), stdin="")
    assert (done.exit_code, "PASSWORD_MISSING" in done.stderr) == (1, True)


async def test_a_mesh_out_of_reach_is_told_in_a_line(run: Run) -> None:
    done = await run("login", "ada", "--password-stdin", endpoint="http://127.0.0.1:1", stdin=PASSWORD)
    assert done.exit_code == 1
    assert "cannot be reached" in done.stderr
    assert "reeltune up" in done.stderr
    assert len(done.stderr.splitlines()) == 2


async def expire_access_token(store: FileCredentials) -> Credentials:
    kept = store.load()
    assert kept is not None
    expired = Credentials(kept.username, "expired", 0, kept.refresh_token, kept.refresh_expire_time)
    store.save(expired)
    return expired


async def test_an_old_access_token_is_refreshed_unnoticed(mesh: AuthMesh, run: Run, home: Path) -> None:
    await mesh.sign_up("ada")
    await run("login", "ada", "--password-stdin", endpoint=plain(mesh), stdin=PASSWORD)
    store = FileCredentials(home, mesh.served.address)
    before = await expire_access_token(store)
    done = await run("whoami", endpoint=plain(mesh))
    assert done.exit_code == 0
    after = store.load()
    assert after is not None
    assert after.refresh_token != before.refresh_token


async def test_many_clients_with_one_file_refresh_once_and_nobody_is_signed_out(mesh: AuthMesh, home: Path) -> None:
    store = FileCredentials(home, mesh.served.address)
    endpoint = Endpoint(mesh.served.address, plaintext=True)
    async with Client(endpoint, store) as first:
        await mesh.sign_up("ada")
        await first.session.log_in("ada", PASSWORD)
    clients = [Client(endpoint, FileCredentials(home, mesh.served.address)) for _ in range(8)]
    try:
        for _ in range(3):
            await expire_access_token(store)
            tokens = await asyncio.gather(*(client.session.access_token() for client in clients))
            assert len(set(tokens)) == 1
    finally:
        for client in clients:
            await client.close()
    assert await mesh.pool.fetchval("SELECT newest_generation FROM sessions WHERE newest_generation > 1") == 4


async def test_an_ended_session_is_forgotten_and_told(mesh: AuthMesh, run: Run, home: Path) -> None:
    await mesh.sign_up("ada")
    await run("login", "ada", "--password-stdin", endpoint=plain(mesh), stdin=PASSWORD)
    await mesh.pool.execute("UPDATE sessions SET end_time = now(), end_reason = 'logout'")
    store = FileCredentials(home, mesh.served.address)
    await expire_access_token(store)
    done = await run("whoami", endpoint=plain(mesh))
    assert done.exit_code == 1
    assert "the session of ada has ended" in done.stderr
    assert store.load() is None
    await assert_eventually(lambda: not (home / "credentials.json").read_text().count("refresh"))


async def test_signing_out_forgets_the_session_even_if_the_mesh_is_away(run: Run, home: Path) -> None:
    store = FileCredentials(home, "127.0.0.1:1")
    store.save(Credentials("ada", "token", 1e12, "refresh", 1e12))
    done = await run("logout", endpoint="http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "cannot be reached" in done.stderr
    assert store.load() is None
