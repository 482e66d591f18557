"""A request becomes a row in SQLite: one statement and a commit, which fails when the file is gone.

Strings and numbers are stored as they are, true and false as 1 and 0, null as
NULL, objects and lists as JSON text; `$body` is always the JSON text of the
whole body, `null` included.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from millpond.drivers.sqlite import SQLiteDriver
from millpond.errors import describe
from millpond.gateway.model import RowModule
from millpond.gateway.pointer import Json, Received, source
from millpond.gateway.refusals import Fault, NoRow, NotStored

if TYPE_CHECKING:
    import aiosqlite

_CONFLICTS: Final = frozenset({
    sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID,
})  # fmt: skip
_UNFIT: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
_MISFIT: Final = frozenset({
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
})  # fmt: skip
_COLUMN_TYPES: Final = {"$body": "TEXT NOT NULL", "$path": "TEXT", "$received_at": "TEXT NOT NULL"}


class SQLiteRows:
    """This stores each request as one row of a table.

    Raises:
        ValueError: the table's or a column's name cannot be one.
    """

    def __init__(self, model: RowModule) -> None:
        self.connection = model.connection
        self.timeout = model.timeout
        if "." in model.table:
            raise ValueError("table: a table in SQLite has no schema, so its name has no dot here")
        table = _quoted("table", model.table)
        columns = [_quoted("columns", name) for name in model.columns]
        self._sources = [source(words) for words in model.columns.values()]
        self._insert = (
            f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - names only, quoted; values are ?
            f"VALUES ({', '.join('?' * len(columns))})"
        )
        self._create = _creation(table, model) if model.create_table else None

    async def store(self, conn: aiosqlite.Connection, received: Received) -> None:
        """Insert the row and commit it."""
        row = [_bound(value_of(received)) for value_of in self._sources]
        changes = conn.total_changes
        try:
            await conn.execute(self._insert, row)
        except sqlite3.OperationalError as error:
            if self._create is None or not str(error).startswith("no such table"):
                raise
            await conn.execute(self._create)
            changes = conn.total_changes
            await conn.execute(self._insert, row)
        # Also in autocommit, where there is nothing to commit: it fails when the file is gone.
        await conn.commit()
        if conn.total_changes == changes:
            raise NoRow

    def explain(self, error: Exception) -> NotStored:
        """What an error of `store` means; SQLite's own sentences name tables and columns, never values."""
        if isinstance(error, OverflowError | UnicodeError):
            return NotStored(Fault.UNFIT, type(error).__name__)
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            # Without a code it is Python's own word: a closed connection, or a value that cannot be bound.
            unbound = isinstance(error, sqlite3.InterfaceError | sqlite3.DataError) or "binding" in str(error)
            return NotStored(Fault.UNFIT if unbound else Fault.AWAY, describe(error))
        if code in _CONFLICTS:
            return NotStored(Fault.CONFLICT, describe(error))
        primary = code & 0xFF
        fault = Fault.UNFIT if primary in _UNFIT else Fault.MISFIT if primary in _MISFIT else Fault.AWAY
        return NotStored(fault, describe(error))


def _bound(value: Any) -> Any:
    if isinstance(value, Json):
        return value.text
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value


def _creation(table: str, model: RowModule) -> str:
    columns = [] if "id" in model.columns else ["id INTEGER PRIMARY KEY"]
    columns += [
        f"{_quoted('columns', name)} {_COLUMN_TYPES.get(words, '')}".rstrip()
        for name, words in model.columns.items()
    ]
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})"


def _quoted(key: str, name: str) -> str:
    try:
        return SQLiteDriver.quote_identifier(name)
    except ValueError:
        raise ValueError(
            f"{key}: a name is empty, too long, or holds a character that names cannot have"
        ) from None
