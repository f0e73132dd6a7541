"""SQL in its own files: named queries, each with a line that says what it is for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from meshkit.postgres.migrations import package_folder

_NAME_LINE = re.compile(r"--\s*name:\s*(?P<name>\S+)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class QueryFileError(Exception):
    """A query file is not written as it must be."""


class Queries:
    """The queries of one package, as attributes: `queries.insert_user` is the SQL text.

    A file holds blocks; each starts with its name and, on the next line, its purpose:

        -- name: insert_user
        -- Adds a user, or returns nothing if the e-mail address is taken.
        INSERT INTO users …
    """

    def __init__(self, sql_by_name: Mapping[str, str]) -> None:
        self._sql = MappingProxyType(dict(sql_by_name))

    @classmethod
    def load(cls, package: str) -> Queries:
        """Reads all `*.sql` files of a package such as `auth_svc.sql.queries`.

        Raises:
            QueryFileError: a block has no purpose or no SQL, or two have the same name.
        """
        sql_by_name: dict[str, str] = {}
        for file in sorted(package_folder(package).iterdir(), key=lambda file: file.name):
            if not file.name.endswith(".sql"):
                continue
            for name, sql in _blocks(file.name, file.read_text("utf-8")):
                if name in sql_by_name:
                    raise QueryFileError(f"{file.name}: query {name} exists twice in {package}")
                sql_by_name[name] = sql
        return cls(sql_by_name)

    def __getattr__(self, name: str) -> str:
        # Guarded against copy and pickle, which ask for attributes before __init__ has run.
        if name.startswith("_") or name not in self._sql:
            raise AttributeError(f"no query {name!r}; there are: {', '.join(sorted(self.__dict__.get('_sql', ())))}")
        return self._sql[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sql)


def _blocks(file_name: str, text: str) -> Iterator[tuple[str, str]]:
    name: str | None = None
    lines: list[str] = []
    for line in [*text.splitlines(), "-- name: end"]:
        match = _NAME_LINE.fullmatch(line.strip())
        if match is None:
            lines.append(line)
            continue
        if name is not None:
            yield name, _checked(file_name, name, lines)
        elif any(line.strip() and not line.strip().startswith("--") for line in lines):
            raise QueryFileError(f"{file_name}: SQL before the first `-- name:` line")
        name, lines = match["name"], []


def _checked(file_name: str, name: str, lines: list[str]) -> str:
    if not _NAME.fullmatch(name):
        raise QueryFileError(f"{file_name}: query name {name!r} is not snake_case")
    purpose = lines[0].strip() if lines else ""
    if not purpose.startswith("--") or not purpose.removeprefix("--").strip():
        raise QueryFileError(f"{file_name}: query {name} needs a line `-- what it is for` under its name")
    sql = "\n".join(line for line in lines if not line.strip().startswith("--")).strip().removesuffix(";").rstrip()
    if not sql:
        raise QueryFileError(f"{file_name}: query {name} has no SQL")
    # The name travels with the statement, so that pg_stat_activity and slow-query logs show it.
    return f"/* {name} */ {sql}"
