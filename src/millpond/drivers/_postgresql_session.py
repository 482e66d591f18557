"""What the PostgreSQL driver needs of a connection, whichever library made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol, Self

from millpond.drivers._shared import Password, Secrets
from millpond.drivers._tls import TlsFiles

# DISCARD ALL would do the same and more: it also drops the library's prepared statements, asyncpg's behind
# its back. RESET ROLE comes after SET SESSION AUTHORIZATION, which sets the role to none whatever
# `server_settings` says; RESET ALL does not touch the role. DISCARD PLANS, because a kept statement or
# function goes on reading the dates in its text as the last borrower's TimeZone and DateStyle had them.
# The last statement only asks whether SQL's PREPARE has left something: its tag says.
CLEAN_SESSION: Final = """\
CLOSE ALL;
SET SESSION AUTHORIZATION DEFAULT;
RESET ROLE;
RESET ALL;
UNLISTEN *;
SELECT pg_catalog.pg_advisory_unlock_all();
DISCARD PLANS;
DISCARD TEMP;
DISCARD SEQUENCES;
SELECT FROM pg_catalog.pg_prepared_statement() WHERE from_sql
"""

# The tag that `CLEAN_SESSION` ends with when there is nothing for `DEALLOCATE_PREPARED`, which would take the
# server as long as all the rest.
NOTHING_PREPARED: Final = "SELECT 0"

# Not DEALLOCATE ALL: the library counts on its own.
DEALLOCATE_PREPARED: Final = """\
DO $$
DECLARE statement text;
BEGIN
  FOR statement IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
    EXECUTE pg_catalog.format('DEALLOCATE %I', statement);
  END LOOP;
END $$
"""

# In recovery every transaction is read-only; the first column is there to say which of the two it is.
FITNESS: Final = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a connection goes, and as what; the options of the driver, checked.

    Attributes:
        settings: of the session, by name, as the server takes them.
        secrets: what the driver masks; an answer of `password` is added.
    """

    host: str
    port: int
    database: str | None
    user: str | None
    password: Password | None = field(repr=False)
    ssl: str
    ssl_files: TlsFiles
    settings: Mapping[str, str]
    command_timeout: float | None
    statement_cache_size: int
    autocommit: bool
    keepalive: float | None
    user_timeout: float | None
    secrets: Secrets = field(repr=False)


class Session(Protocol):
    """A library's connection that knows in what state it is.

    `open` makes one; of the others, those that are not `async` do no I/O.
    """

    library: ClassVar[str]

    @classmethod
    async def open(cls, target: Target) -> Self:
        """Connect and log in; cancelled, it leaves nothing behind."""
        ...

    @property
    def is_lost(self) -> bool:
        """This side knows that the connection is gone."""
        ...

    @property
    def is_unfinished(self) -> bool:
        """Somebody is still at it, or an answer is only half read; nobody can tell what comes next."""
        ...

    @property
    def is_unsettled(self) -> bool:
        """There is something that a rollback has to see to before the next borrower."""
        ...

    @property
    def reported(self) -> tuple[bool, bool] | None:
        """Whether the node is a standby, and read-only, as it last reported; None: it does not."""
        ...

    async def settle(self) -> None:
        """Roll back what is open."""
        ...

    async def clean(self) -> None:
        """Bring the settled session back to what it was after connecting, and the client's side too."""
        ...

    def remember(self) -> None:
        """Take the present state of the client's side for the one to come back to; no I/O."""
        ...

    async def answer(self) -> None:
        """Make a round trip."""
        ...

    async def fitness(self) -> tuple[bool, bool]:
        """Ask whether the node is a standby, and read-only."""
        ...

    @property
    def version(self) -> str:
        """What the server called its version when the session began."""

    async def hang_up(self) -> None:
        """Say goodbye and close."""
        ...

    def cut_off(self) -> None:
        """Close at once, in whatever state it is; never raises."""
        ...

    def filenos(self) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        ...

    async def store(self, statement: str, *values: str) -> int:
        """Run one statement with `$1` and on, committed when this returns; says how many rows it touched."""
        ...

    async def run(self, statement: str) -> None:
        """Run one statement without values, committed when this returns."""
        ...

    @staticmethod
    def is_fatal(error: BaseException) -> bool:
        """The connection is of no use after this, whatever the library has noticed so far."""
        ...

    @staticmethod
    def is_demotion(error: BaseException) -> bool:
        """A write was refused because it was to be read-only."""
        ...

    @staticmethod
    def is_refusal(error: BaseException) -> bool:
        """A server, asked again, would only say it again: about where to, and with which settings."""
        ...

    @staticmethod
    def is_about_credentials(error: BaseException) -> bool:
        """As `is_refusal`, about who we are."""
        ...

    @staticmethod
    def key_of(error: BaseException) -> str | None:
        """The option that a failed connect points at; None: nobody can tell, or its type tells."""
        ...


def rows_of(tag: str) -> int:
    """How many rows a command touched, of its tag: 1 of `INSERT 0 1`."""
    count = tag.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0
