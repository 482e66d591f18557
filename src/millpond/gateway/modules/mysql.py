"""A request becomes a row in MySQL or MariaDB: one statement, and a commit where there is no autocommit.

Strings and numbers are stored as they are, true and false as 1 and 0, null as
NULL, objects and lists as JSON text; `$body` is always the JSON text of the
whole body, `null` included. `$received_at` is UTC without saying so, which is
what a DATETIME column takes. A value that does not fit is refused where the
server's sql_mode is strict, as it is unless somebody changed it.

A request's own key goes into its table in the same transaction, before the
row: of two requests at once the second waits for the first to commit. Both
tables must be transactional, as InnoDB's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from millpond.drivers.mysql import MySQLDriver
from millpond.errors import describe
from millpond.gateway.idempotency import BATCH, Keeping
from millpond.gateway.module_models import RowModule
from millpond.gateway.modules.naming import Naming
from millpond.gateway.pointer import Json, Received, as_json, source
from millpond.gateway.refusals import Fault, NoRow, NotStored, Outcome

if TYPE_CHECKING:
    from millpond.drivers._mysql_session import Session

# Source: the error references of MySQL 8.4 and MariaDB 10.11. All other numbers: the table does not fit.
_CONFLICTS: Final = frozenset({1062, 1586})
_UNFIT: Final = frozenset({
    1048, 1264, 1265, 1292, 1366, 1406, 1690,  # null, out of range, not of the type, too long
    1216, 1217, 1451, 1452,  # foreign keys
    3140, 3819, 4025, 1644,  # no JSON, CHECK of MySQL and MariaDB, a trigger's own refusal
})  # fmt: skip
_AWAY: Final = frozenset({
    1021, 1037, 1038, 1040, 1041, 1114, 1203, 1226,  # full, in one way or another
    1053, 1158, 1159, 1160, 1161, 1317, 1927, 4031,  # going down, cut off, killed
    1205, 1213, 1969, 3024,  # a lock, a deadlock, a statement_timeout
    1290, 1792, 1836, 1874,  # read-only
    *range(2000, 3000),  # the library's own: gone, lost
})  # fmt: skip
_NAMES: Final = Naming(
    MySQLDriver.quote_identifier,
    id_column="id BIGINT AUTO_INCREMENT PRIMARY KEY",
    types={"$body": "JSON NOT NULL", "$path": "TEXT", "$received_at": "DATETIME(6) NOT NULL"},
    other_type="LONGTEXT",
)
_NO_SUCH_TABLE: Final = 1146
# Somebody has the key, or had it and gave up while several waited: then all but one of them are sent away.
_NOT_NOW: Final = frozenset({1062, 1213})
_ROUNDS: Final = 5


class MySQLRows:
    """This stores each request as one row of a table.

    Raises:
        ValueError: the table's or a column's name cannot be one.
    """

    kind = "mysql"

    def __init__(self, model: RowModule, keeping: Keeping | None = None) -> None:
        self.connection = model.connection
        self.timeout = model.timeout
        if model.table.count(".") > 1:
            raise ValueError("table: takes a name, or a database and a name with one dot between them")
        table = _NAMES.quoted("table", *model.table.split("."))
        columns = [_NAMES.quoted("columns", name) for name in model.columns]
        self._sources = [(words == "$received_at", source(words)) for words in model.columns.values()]
        # The library reads % as the beginning of a value.
        names = f"{table} ({', '.join(columns)})".replace("%", "%%")
        values = ", ".join(["%s"] * len(columns))
        self._insert = f"INSERT INTO {names} VALUES ({values})"  # noqa: S608 - names only, quoted
        self._keys = None if keeping is None else _Keys(keeping)
        self._create: list[str] = []
        if model.create_table:
            self._create = [
                f"{_NAMES.creation(table, model)} CHARACTER SET utf8mb4",
                *([self._keys.creation] if self._keys else ()),
            ]

    async def store(self, conn: Session, received: Received) -> Outcome:
        """Insert the row, unless the request's key is there; it is committed when this returns."""
        row = [
            _utc(value_of(received)) if is_time else _bound(value_of(received))
            for is_time, value_of in self._sources
        ]
        try:
            return await self._store(conn, row, received)
        except conn.Error as error:
            if not self._create or error.args[0] != _NO_SUCH_TABLE:
                raise
        await conn.rollback()
        for statement in self._create:
            await conn.run(statement)
        return await self._store(conn, row, received)

    async def _store(self, conn: Session, row: list[Any], received: Received) -> Outcome:
        keys = self._keys if received.key is not None else None
        if keys is not None:
            outcome = await keys.keep(conn, received)
            if outcome is not Outcome.DONE:
                return outcome
        if await _executed(conn, self._insert, row) != 1:
            raise NoRow
        if conn.is_in_transaction:
            await conn.commit()
        if keys is not None:
            await keys.sweep_if_due(conn)
        return Outcome.DONE

    def explain(self, error: Exception) -> NotStored:
        """What an error of `store` means; of the server's words only those that hold no values."""
        if isinstance(error, UnicodeError):
            return NotStored(Fault.UNFIT, type(error).__name__)
        code = error.args[0] if error.args else None
        if isinstance(error, OSError) or code == 0:
            return NotStored(Fault.AWAY, describe(error))
        if code in _CONFLICTS or code in _UNFIT:
            fault = Fault.CONFLICT if code in _CONFLICTS else Fault.UNFIT
            return NotStored(fault, f"{type(error).__name__} ({code})")
        return NotStored(Fault.AWAY if code in _AWAY else Fault.MISFIT, describe(error))


class _Keys:
    """The table of the requests' own keys."""

    def __init__(self, keeping: Keeping) -> None:
        if keeping.table.count(".") > 1:
            raise ValueError(
                "idempotency.table: takes a name, or a database and a name with one dot between them"
            )
        self._keeping = keeping
        table = _NAMES.quoted("idempotency.table", *keeping.table.split("."))
        self.creation = (
            f"CREATE TABLE IF NOT EXISTS {table} (id CHAR(64) PRIMARY KEY, body CHAR(64) NOT NULL, "
            "hook VARCHAR(500) NOT NULL, expires_at DATETIME(6) NOT NULL, INDEX (expires_at)) "
            "ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin"
        )
        table = table.replace("%", "%%")
        self._put = (
            f"INSERT INTO {table} (id, body, hook, expires_at) "  # noqa: S608 - names only, quoted
            "VALUES (%s, %s, %s, UTC_TIMESTAMP(6) + INTERVAL %s SECOND)"
        )
        self._find = f"SELECT body, expires_at <= UTC_TIMESTAMP(6) FROM {table} WHERE id = %s"  # noqa: S608
        expired = f"DELETE FROM {table} WHERE expires_at <= UTC_TIMESTAMP(6)"  # noqa: S608
        self._remove = f"{expired} AND id = %s"
        self._sweep = f"{expired} LIMIT {BATCH}"

    async def keep(self, conn: Session, received: Received) -> Outcome:
        """Put the request's key into the table, unless it is there; the transaction stays open if not.

        Raises:
            Error: the library's; also when the key came and went again and again.
        """
        keeping, id = self._keeping, self._keeping.id_of(received)
        for left in reversed(range(_ROUNDS)):
            await conn.run("START TRANSACTION")
            try:
                await _executed(conn, self._put, (id, received.fingerprint, keeping.hook, keeping.ttl))
                return Outcome.DONE
            except conn.Error as error:
                if error.args[0] not in _NOT_NOW or not left:
                    raise
            # Seen from a transaction of its own: this one may have begun before the other's end.
            await conn.rollback()
            async with conn.cursor() as cursor:
                await cursor.execute(self._find, (id,))
                found = await cursor.fetchone()
            if found is not None and not found[1]:
                await self._end(conn)
                return Outcome.BEFORE if found[0] == received.fingerprint else Outcome.OTHER
            await _executed(conn, self._remove, (id,))
            await self._end(conn)
        raise AssertionError("unreachable")

    async def sweep_if_due(self, conn: Session) -> None:
        """Delete what is known no more, when it is time; the row is stored, whatever comes of this."""
        sweep = self._keeping.sweep
        if not sweep.is_due():
            return
        with suppress(conn.Error):
            # For the next transaction only: no locks on the gaps where others insert.
            await conn.run("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
            sweep.deleted(await _executed(conn, self._sweep, ()))
            await self._end(conn)

    async def _end(self, conn: Session) -> None:
        if conn.is_in_transaction:
            await conn.commit()


async def _executed(conn: Session, statement: str, values: Sequence[Any]) -> int:
    """How many rows the statement has changed."""
    async with conn.cursor() as cursor:
        changed: int = await cursor.execute(statement, values)
    return changed


def _bound(value: Any) -> Any:
    if isinstance(value, Json):
        value = value.text
    elif isinstance(value, dict | list):
        value = as_json(value)
    if isinstance(value, str):
        value.encode()  # half a character is refused here: the libraries would let some of them through
    return value


def _utc(instant: str) -> str:
    """ISO 8601 in UTC as a DATETIME column takes it."""
    return instant.replace("T", " ").removesuffix("Z").removesuffix("+00:00")
