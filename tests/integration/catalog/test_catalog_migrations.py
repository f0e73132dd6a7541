"""Migrations over rows: what was stored before is found afterwards."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import asyncpg
import pytest

from catalog_svc.store.queries import MIGRATIONS, SCHEMA
from meshkit.postgres import migrate
from meshkit.postgres.migrations import package_folder
from meshkit.testing import Database

_ROWS = """
INSERT INTO entries (id, kind, owner_id, name, description, visibility)
VALUES ('ds_1', 'DATASET', 'usr_a', 'a', '', 'PRIVATE'), ('mdl_1', 'MODEL', 'usr_a', 'a', '', 'PRIVATE');
INSERT INTO files (entry_id, path, sha256, size_bytes)
VALUES ('ds_1', 'a.mp4', 'aa', 5), ('ds_1', 'b.mp4', 'aa', 5), ('mdl_1', 'config.json', 'cc', 7);
INSERT INTO uploads (id, entry_id, path, sha256, size_bytes, is_resumable, complete_time)
VALUES ('upl_1', 'ds_1', 'c.mp4', 'dd', 11, true, NULL), ('upl_2', 'ds_1', 'a.mp4', 'aa', 5, true, now()),
       ('upl_3', 'ds_gone', 'x.mp4', 'ee', 13, true, now());
INSERT INTO garbage (kind, entry_id, sha256) VALUES ('CONTENT', 'ds_1', 'ff');
"""


async def test_files_of_before_keep_their_objects_and_count(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first_catalog_migrations"
    first.mkdir()
    (first / "__init__.py").touch()
    shutil.copy(str(package_folder(MIGRATIONS) / "0001_create_catalog.sql"), first)
    monkeypatch.syspath_prepend(tmp_path)
    await migrate(database.dsn, SCHEMA, first.name)
    sys.modules.pop(first.name, None)
    connection = await asyncpg.connect(database.dsn, server_settings={"search_path": SCHEMA})
    try:
        await connection.execute(_ROWS)
        await migrate(database.dsn, SCHEMA, MIGRATIONS)
        files = await connection.fetch("SELECT path, object_key, location_id FROM files ORDER BY path")
        assert [tuple(row) for row in files] == [
            ("a.mp4", "datasets/ds_1/clips/aa", None),
            ("b.mp4", "datasets/ds_1/clips/aa", None),
            ("config.json", "models/mdl_1/cc", None),
        ]
        uploads = await connection.fetch("SELECT id, owner_id, object_key FROM uploads ORDER BY id")
        assert [tuple(row) for row in uploads] == [
            ("upl_1", "usr_a", "contents/usr_a/dd"),
            ("upl_2", "usr_a", "contents/usr_a/aa"),
        ]
        assert await connection.fetchval("SELECT object_key FROM garbage") == "datasets/ds_1/clips/ff"
        assert tuple(await connection.fetchrow("SELECT * FROM storage_usage") or ()) == ("usr_a", 12, 2, 11)
    finally:
        await connection.close()
