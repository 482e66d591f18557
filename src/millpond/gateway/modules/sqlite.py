"""A request becomes a row in SQLite: one statement and a commit, which fails when the file is gone.

Strings and numbers are stored as they are (of a number SQLite keeps what a
float holds), true and false as 1 and 0, null as NULL, objects and lists as JSON
text; `$body` is always the JSON text of the whole body, `null` included. A
request's own key goes into its table in the same transaction, which begins as a
writer: of two requests at once the second waits, and finds the key of the first.
"""

from __future__ import annotations

import sqlite3
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from millpond.drivers.sqlite import SQLiteDriver
from millpond.errors import describe
from millpond.gateway.idempotency import BATCH, Keeping
from millpond.gateway.module_models import RowModule
from millpond.gateway.modules.naming import Naming
from millpond.gateway.pointer import Json, Received, as_json, source
from millpond.gateway.refusals import Fault, NoRow, NotStored, Outcome

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
_NAMES: Final = Naming(
    SQLiteDriver.quote_identifier,
    id_column="id INTEGER PRIMARY KEY",
    types={"$body": "TEXT NOT NULL", "$path": "TEXT", "$received_at": "TEXT NOT NULL"},
    other_type="",
)


class SQLiteRows:
    """This stores each request as one row of a table.

    Raises:
        ValueError: the table's or a column's name cannot be one.
    """

    kind = "sqlite"

    def __init__(self, model: RowModule, keeping: Keeping | None = None) -> None:
        self.connection = model.connection
        self.timeout = model.timeout
        if "." in model.table:
            raise ValueError("table: a table in SQLite has no schema, so its name has no dot here")
        table = _NAMES.quoted("table", model.table)
        columns = [_NAMES.quoted("columns", name) for name in model.columns]
        self._sources = [source(words) for words in model.columns.values()]
        self._insert = (
            f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - names only, quoted; values are ?
            f"VALUES ({', '.join('?' * len(columns))})"
        )
        self._keys = None if keeping is None else _Keys(keeping)
        self._create: list[str] = []
        if model.create_table:
            self._create = [_NAMES.creation(table, model), *(self._keys.creation if self._keys else ())]

    async def store(self, conn: aiosqlite.Connection, received: Received) -> Outcome:
        """Insert the row and commit it, unless the request's key is there."""
        row = [_bound(value_of(received)) for value_of in self._sources]
        try:
            return await self._store(conn, row, received)
        except sqlite3.OperationalError as error:
            if not self._create or not str(error).startswith("no such table"):
                raise
        await conn.rollback()
        for statement in self._create:
            await conn.execute(statement)
        return await self._store(conn, row, received)

    async def _store(self, conn: aiosqlite.Connection, row: list[Any], received: Received) -> Outcome:
        outcome = Outcome.DONE
        keys = self._keys if received.key is not None else None
        if keys is not None:
            await conn.execute("BEGIN IMMEDIATE")
            outcome = await keys.keep(conn, received)
        if outcome is Outcome.DONE:
            changes = conn.total_changes
            await conn.execute(self._insert, row)
            if conn.total_changes == changes:
                raise NoRow
            if keys is not None:
                await keys.sweep_if_due(conn)
        # Also where there is nothing to commit: it fails when the file is gone.
        await conn.commit()
        return outcome

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


class _Keys:
    """The table of the requests' own keys."""

    def __init__(self, keeping: Keeping) -> None:
        if "." in keeping.table:
            raise ValueError(
                "idempotency.table: a table in SQLite has no schema, so its name has no dot here"
            )
        self._keeping = keeping
        table, index = (
            _NAMES.quoted("idempotency.table", keeping.table + end) for end in ("", "_expires_at")
        )
        self.creation = (
            f"CREATE TABLE IF NOT EXISTS {table} "
            "(id TEXT PRIMARY KEY, body TEXT NOT NULL, hook TEXT NOT NULL, expires_at REAL NOT NULL)",
            f"CREATE INDEX IF NOT EXISTS {index} ON {table} (expires_at)",
        )
        self._find = f"SELECT body FROM {table} WHERE id = ? AND expires_at > ?"  # noqa: S608 - names only, quoted
        self._put = f"INSERT OR REPLACE INTO {table} (id, body, hook, expires_at) VALUES (?, ?, ?, ?)"  # noqa: S608
        self._sweep = (
            f"DELETE FROM {table} WHERE id IN "  # noqa: S608
            f"(SELECT id FROM {table} WHERE expires_at <= ? LIMIT {BATCH})"
        )

    async def keep(self, conn: aiosqlite.Connection, received: Received) -> Outcome:
        """Put the request's key into the table, unless it is there, in the transaction under way."""
        keeping, id, now = self._keeping, self._keeping.id_of(received), time.time()
        for (body,) in await conn.execute_fetchall(self._find, (id, now)):
            return Outcome.BEFORE if body == received.fingerprint else Outcome.OTHER
        await conn.execute(self._put, (id, received.fingerprint, keeping.hook, now + keeping.ttl))
        return Outcome.DONE

    async def sweep_if_due(self, conn: aiosqlite.Connection) -> None:
        """Delete what is known no more, when it is time, in the transaction under way."""
        sweep = self._keeping.sweep
        if sweep.is_due():
            sweep.deleted((await conn.execute(self._sweep, (time.time(),))).rowcount)


def _bound(value: Any) -> Any:
    if isinstance(value, Json):
        return value.text
    if isinstance(value, dict | list):
        return as_json(value)
    return float(value) if isinstance(value, Decimal) else value
