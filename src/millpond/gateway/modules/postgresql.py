"""A request becomes a row in PostgreSQL: one statement, which is one transaction.

The values travel as one parameter, a JSON object with a key for each column,
which the server takes apart with the table's own column types: numbers, times
and texts arrive as what the column holds, and a `json` or `jsonb` column gets
the document itself. A string keeps no quotes unless its column is `json` or
`jsonb`; objects and lists go into a text column as JSON text. A null that a
pointer finds becomes NULL; a body that is null is stored by `$body` as JSON's
null.

A request's own key goes into its table by the same statement, after the row:
of two requests at once the second fails on the first one's key, which undoes
its row.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.errors import describe
from millpond.gateway.idempotency import BATCH, Keeping
from millpond.gateway.module_models import RowModule
from millpond.gateway.modules.naming import Naming
from millpond.gateway.pointer import Json, Received, as_json, source
from millpond.gateway.refusals import Fault, NoRow, NotStored, Outcome

if TYPE_CHECKING:
    from millpond.drivers._postgresql_session import Session

# By SQLSTATE, the longest prefix first. Source: PostgreSQL manual, appendix A.
_FAULTS: Final[tuple[tuple[str, Fault], ...]] = (
    ("23505", Fault.CONFLICT),  # unique_violation
    ("23P01", Fault.CONFLICT),  # exclusion_violation
    ("25006", Fault.AWAY),  # read_only_sql_transaction: a demoted primary
    ("55P03", Fault.AWAY),  # lock_not_available
    ("08", Fault.AWAY),  # connection exception
    ("22", Fault.UNFIT),  # data exception
    ("23", Fault.UNFIT),  # integrity constraint violation
    ("40", Fault.AWAY),  # transaction rollback: serialization, deadlock
    ("44", Fault.UNFIT),  # with check option violation
    ("53", Fault.AWAY),  # insufficient resources
    ("54", Fault.UNFIT),  # program limit exceeded
    ("57", Fault.AWAY),  # operator intervention: shutdown, cancelled by a statement_timeout
    ("58", Fault.AWAY),  # system error
    ("P0001", Fault.UNFIT),  # raise_exception: a trigger's own refusal
)
_UNDEFINED_TABLE: Final = "42P01"
# Another session has just created it: duplicate_table, duplicate_object, unique_violation.
_ALREADY_THERE: Final = ("42P07", "42710", "23505")
_CONFLICTS: Final = frozenset({"23505", "23P01"})
_NAMES: Final = Naming(
    PostgreSQLDriver.quote_identifier,
    id_column="id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    types={"$body": "jsonb NOT NULL", "$path": "text", "$received_at": "timestamptz NOT NULL"},
    other_type="jsonb",
)


class PostgreSQLRows:
    """This stores each request as one row of a table.

    Raises:
        ValueError: the table's or a column's name cannot be one.
    """

    kind = "postgresql"

    def __init__(self, model: RowModule, keeping: Keeping | None = None) -> None:
        self.connection = model.connection
        self.timeout = model.timeout
        if model.table.count(".") > 1:
            raise ValueError("table: takes a name, or a schema and a name with one dot between them")
        table = _NAMES.quoted("table", *model.table.split("."))
        columns = ", ".join(_NAMES.quoted("columns", name) for name in model.columns)
        self._sources = [(json.dumps(name), source(words)) for name, words in model.columns.items()]
        self._insert = _insertion(table, columns, columns)
        # json_populate_record makes every null a NULL. The literal takes the column's own type; it stands in
        # this statement only, because a column of numbers takes other bodies.
        self._insert_null = _insertion(table, columns, _with_null_bodies(model))
        self._keys = None if keeping is None else _Keys(keeping)
        self._create: list[str] = []
        if model.create_table:
            self._create = [_NAMES.creation(table, model), *(self._keys.creation if self._keys else ())]

    async def store(self, conn: Session, received: Received) -> Outcome:
        """Insert the row, unless the request's key is there; it is committed when this returns.

        The connection may be of either library.
        """
        try:
            return await self._store(conn, received)
        except Exception as error:
            if not self._create or _state(error) != _UNDEFINED_TABLE:
                raise
        # Without autocommit the failed statement has spoiled its transaction.
        await conn.settle()
        for statement in self._create:
            await _create(conn, statement)
        return await self._store(conn, received)

    async def _store(self, conn: Session, received: Received) -> Outcome:
        row, insert = self._row(received), self._insert_null if received.body is None else self._insert
        if self._keys is not None and received.key is not None:
            return await self._keys.store(conn, insert, row, received)
        if await conn.store(insert, row) != 1:
            raise NoRow
        return Outcome.DONE

    def explain(self, error: Exception) -> NotStored:
        """What an error of `store` means; of the server's words only those that hold no values."""
        state = _state(error)
        if state is not None:
            fault = next((fault for prefix, fault in _FAULTS if state.startswith(prefix)), Fault.MISFIT)
            if fault in (Fault.CONFLICT, Fault.UNFIT):
                return NotStored(fault, _without_values(error, state))
            return NotStored(fault, describe(error))
        # Without the server's code it is the library's own, which are named alike.
        names = {each.__name__ for each in type(error).__mro__}
        if "DataError" in names or isinstance(error, UnicodeError):
            return NotStored(Fault.UNFIT, type(error).__name__)
        if isinstance(error, OSError) or names & {
            "InterfaceError",
            "InternalClientError",
            "OperationalError",
        }:
            return NotStored(Fault.AWAY, describe(error))
        return NotStored(Fault.MISFIT, describe(error))

    def _row(self, received: Received) -> str:
        pairs = []
        for name, value_of in self._sources:
            value = value_of(received)
            pairs.append(
                f"{name}: {value.text if isinstance(value, Json) else as_json(value, ensure_ascii=True)}"
            )
        return f"{{{', '.join(pairs)}}}"


class _Keys:
    """The table of the requests' own keys."""

    def __init__(self, keeping: Keeping) -> None:
        if keeping.table.count(".") > 1:
            raise ValueError(
                "idempotency.table: takes a name, or a schema and a name with one dot between them"
            )
        self._keeping = keeping
        names = keeping.table.split(".")
        table = _NAMES.quoted("idempotency.table", *names)
        index = _NAMES.quoted("idempotency.table", f"{names[-1][:40]}_expires_at")
        self.creation = (
            f"CREATE TABLE IF NOT EXISTS {table} "
            "(id text PRIMARY KEY, body text NOT NULL, hook text NOT NULL, expires_at timestamptz NOT NULL)",
            f"CREATE INDEX IF NOT EXISTS {index} ON {table} (expires_at)",
        )
        self._unless_there = f"WHERE NOT EXISTS (SELECT FROM {table} WHERE id = $2)"
        self._keep = (
            f"INSERT INTO {table} (id, body, hook, expires_at) "  # noqa: S608
            "SELECT $2, $3, $4, now() + make_interval(secs => $5::text::float8) "
            "WHERE EXISTS (SELECT FROM stored)"
        )
        self._find = f"SELECT FROM {table} WHERE id = $1 AND expires_at > now()"
        self._remove = f"DELETE FROM {table} WHERE id = $1 AND expires_at <= now()"  # noqa: S608
        self._sweep = (
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} "  # noqa: S608
            f"WHERE expires_at <= now() LIMIT {BATCH} FOR UPDATE SKIP LOCKED)"
        )

    async def store(self, conn: Session, insert: str, row: str, received: Received) -> Outcome:
        """Store row and key together, unless the key is there.

        Raises:
            NoRow: there is no key, and there was no row either.
            Exception: as the library says.
        """
        keeping, id = self._keeping, self._keeping.id_of(received) or ""
        once = f"WITH stored AS ({insert} {self._unless_there} RETURNING 1) {self._keep}"
        for is_last in (False, True):
            conflict: Exception | None = None
            try:
                if await conn.store(once, row, id, received.fingerprint, keeping.hook, str(keeping.ttl)):
                    await self._sweep_if_due(conn)
                    return Outcome.DONE
            except Exception as error:
                # Also of the row: another request with this key may have stored it at this moment.
                if _state(error) not in _CONFLICTS:
                    raise
                conflict = error
                await conn.settle()
            if await conn.store(f"{self._find} AND body = $2", id, received.fingerprint):
                return Outcome.BEFORE
            if await conn.store(self._find, id):
                return Outcome.OTHER
            if not await conn.store(self._remove, id) or is_last:
                raise conflict or NoRow
        raise AssertionError("the last round returns or raises")

    async def _sweep_if_due(self, conn: Session) -> None:
        """Delete what is known no more, when it is time; the row is stored, whatever comes of this."""
        sweep = self._keeping.sweep
        if sweep.is_due():
            try:
                sweep.deleted(await conn.store(self._sweep))
            except Exception as error:
                if _state(error) is None:
                    raise
                await conn.settle()


def _insertion(table: str, columns: str, values: str) -> str:
    return (
        f"INSERT INTO {table} ({columns}) "  # noqa: S608 - names only, quoted; values are $1
        f"SELECT {values} FROM json_populate_record(NULL::{table}, $1::json)"
    )


def _with_null_bodies(model: RowModule) -> str:
    """What is selected for a body that is null: JSON's null where the whole body goes."""
    return ", ".join(
        f"coalesce({_NAMES.quoted('columns', name)}, 'null')"
        if words == "$body"
        else _NAMES.quoted("columns", name)
        for name, words in model.columns.items()
    )


async def _create(conn: Session, statement: str) -> None:
    # Another session may be creating it at this moment, which IF NOT EXISTS does not cover: it is told by
    # the name of the table, of its type or of its sequence, or by an index of the catalog.
    try:
        await conn.run(statement)
    except Exception as error:
        if _state(error) not in _ALREADY_THERE:
            raise
        await conn.settle()


def _state(error: Exception) -> str | None:
    """The server's code for an error; None: it is not the server's."""
    state: str | None = getattr(error, "sqlstate", None)
    return state


def _without_values(error: Exception, state: str) -> str:
    """What kind of error, and of which constraint and column; the server's own sentence may quote values."""
    told_by: Any = getattr(error, "diag", error)  # where psycopg keeps what the server said
    facts = [
        f"{fact} {name!r}"
        for fact in ("constraint", "column")
        if (name := getattr(told_by, f"{fact}_name", None)) is not None
    ]
    return ", ".join([f"{type(error).__name__} ({state})", *facts])
