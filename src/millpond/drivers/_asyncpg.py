"""PostgreSQL connections on asyncpg."""

from __future__ import annotations

import ssl as tls
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from millpond.drivers._postgresql_refusals import Refusal, refusal_in
from millpond.drivers._postgresql_session import (
    CLEAN_SESSION,
    DEALLOCATE_PREPARED,
    FITNESS,
    NOTHING_PREPARED,
    Target,
    rows_of,
)
from millpond.drivers._shared import ask, cut, outlive_fork, tune_socket
from millpond.drivers._tls import BadTlsFile, tls_context
from millpond.errors import MissingExtra

try:
    import asyncpg
    from asyncpg import exceptions as pg
except ModuleNotFoundError as missing:
    raise MissingExtra("postgresql", needed_for="PostgreSQLDriver", module="asyncpg") from missing

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

_FATAL: Final = (
    pg.PostgresConnectionError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
    pg.DatabaseDroppedError,
    pg.IdleSessionTimeoutError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.ProtocolError,
    # The server has forgotten statements that asyncpg still counts on: somebody ran DISCARD ALL.
    pg.InvalidSQLStatementNameError,
)

_REFUSED: Final = (
    pg.InvalidCatalogNameError,
    pg.InsufficientPrivilegeError,
    pg.UndefinedObjectError,
    pg.InvalidParameterValueError,
    pg.CantChangeRuntimeParamError,
    pg.ClientConfigurationError,
    tls.SSLCertVerificationError,
    BadTlsFile,
)


class _Codec(NamedTuple):
    """A call that sets the codec of a type."""

    method: str
    how: dict[str, Any]


class AsyncpgConnection(_Connection):
    """An asyncpg connection whose `reset()` leaves nothing of the last borrower behind."""

    library: ClassVar[str] = "asyncpg"
    # Nothing else counts: asyncpg refuses a reset while somebody asks, and a cancelled query is waited for.
    is_unfinished = False  # a COPY was given up in the middle

    # What asyncpg's own pool uses, and its type stubs leave out.
    _protocol: Any
    _transport: Any
    _pool_release_ctr: int
    _listeners: dict[str, Any]
    _query_loggers: set[Any]
    _log_listeners: set[Any]
    _termination_listeners: set[Any]

    _codecs: Mapping[tuple[str, str], _Codec] = MappingProxyType({})
    _own_codecs: Mapping[tuple[str, str], _Codec] = MappingProxyType({})
    _own_listeners: tuple[frozenset[Any], ...] = (frozenset(), frozenset(), frozenset())

    @classmethod
    async def open(cls, target: Target) -> AsyncpgConnection:
        """Connect and log in."""

        async def password_of_now() -> str:
            # asyncpg calls this at each connect and keeps only the question.
            return await ask(target.password or "", target.secrets)

        options: dict[str, Any] = {
            "host": target.host,
            "port": target.port,
            "database": target.database,
            "user": target.user,
            "password": None if target.password is None else password_of_now,
            "ssl": await _tls(target),
            "timeout": None,  # the pool sets the limit
            "command_timeout": target.command_timeout,
            "statement_cache_size": target.statement_cache_size,
            "server_settings": dict(target.settings),
            "target_session_attrs": "any",  # or PGTARGETSESSIONATTRS would decide
        }
        try:
            conn = await asyncpg.connect(connection_class=cls, **options)
        except OSError as error:
            if not target.host.startswith("/") or error.errno is None or error.filename is not None:
                raise
            # Of a Unix socket the system does not say which.
            place = f"{target.host}/.s.PGSQL.{target.port}"
            raise OSError(error.errno, error.strerror, place) from error
        outlive_fork(conn)
        try:
            tune_socket(conn.wire, keepalive=target.keepalive, user_timeout=target.user_timeout)
        except BaseException:
            conn.cut_off()
            raise
        return conn

    def get_reset_query(self) -> str:
        """Statements that bring the session back to what it was after connecting, for asyncpg's `reset()`."""
        return f"{CLEAN_SESSION};{DEALLOCATE_PREPARED}"

    @property
    def is_lost(self) -> bool:
        """True when asyncpg knows it: it hears of it as soon as the peer closes."""
        return self.is_closed()

    @property
    def is_cancelling(self) -> bool:
        """A query was cancelled or timed out, and the server has not yet acknowledged it."""
        return bool(self._protocol._is_cancelling())

    @property
    def is_unsettled(self) -> bool:
        """There is something that a rollback has to see to before the next borrower."""
        # _top_xact: asyncpg believes in a transaction that was ended by hand, and would open a
        # savepoint where the next borrower asks for a transaction.
        protocol = self._protocol
        return bool(protocol._is_cancelling() or protocol.is_in_transaction() or self._top_xact is not None)

    @property
    def reported(self) -> tuple[bool, bool] | None:
        """Whether the node is a standby, and read-only, as it last reported."""
        settings = self.get_settings()
        standby = getattr(settings, "in_hot_standby", None)
        read_only = getattr(settings, "default_transaction_read_only", None)
        return None if standby is None or read_only is None else (standby == "on", read_only == "on")

    async def settle(self) -> None:
        """Wait for a cancelled query to end, and roll back what is open."""
        if self.is_closed():
            raise pg.InterfaceError("connection is closed")
        if self.is_unfinished:
            raise pg.InterfaceError("a COPY was given up in the middle")
        if self.is_cancelling:
            await self._protocol._wait_for_cancellation()
        if self.is_in_transaction():
            await self.execute("ROLLBACK")
        self._top_xact = None
        # What the last borrower still has in hand (a transaction object, a cursor, a prepared
        # statement) is refused from now on, as after a release to asyncpg's own pool.
        self._pool_release_ctr += 1

    async def clean(self) -> None:
        """Bring the settled session back to what it was after connecting, and the client's side too."""
        # As asyncpg's reset(), which does not tell what the server answers.
        self._listeners.clear()
        self._log_listeners.clear()
        if await self.execute(CLEAN_SESSION) != NOTHING_PREPARED:
            await self.execute(DEALLOCATE_PREPARED)
        queries, notices, ends = self._own_listeners
        self._query_loggers, self._log_listeners = set(queries), set(notices)
        self._termination_listeners = set(ends)
        if self._codecs is not self._own_codecs:
            await self._restore_codecs()

    def remember(self) -> None:
        """Take codecs, loggers and listeners as they are for those to come back to."""
        self._own_codecs = self._codecs
        self._own_listeners = (
            frozenset(self._query_loggers),
            frozenset(self._log_listeners),
            frozenset(self._termination_listeners),
        )

    async def _restore_codecs(self) -> None:
        # asyncpg does not say which codecs there are; so each change is written down, and taken back by name.
        own = self._own_codecs
        for name in {*self._codecs, *own}:
            if self._codecs.get(name) == own.get(name):
                continue
            schema, typename = name
            await super().reset_type_codec(typename, schema=schema)
            codec = own.get(name)
            if codec is not None:
                await getattr(super(), codec.method)(typename, schema=schema, **codec.how)
        self._codecs = own

    def _note_codec(self, schema: str, typename: str, codec: _Codec | None) -> None:
        noted = {**self._codecs}
        noted.pop((schema, typename), None)
        if codec is not None:
            noted[schema, typename] = codec
        self._codecs = noted

    async def _copy_out(self, *args: Any) -> Any:
        try:
            return await super()._copy_out(*args)  # type: ignore[misc] # all copy_from_... end here
        except pg.PostgresError:
            raise
        except BaseException:
            # Where the server's last word was read already, asyncpg now waits for another, for ever.
            self.is_unfinished = True
            raise

    # Each of the three changes something in its last step, without an await: what raises has changed nothing.

    async def set_type_codec(self, typename: str, *, schema: str = "public", **how: Any) -> None:
        """As asyncpg's; a full reset takes it back."""
        await super().set_type_codec(typename, schema=schema, **how)
        self._note_codec(schema, typename, _Codec("set_type_codec", how))

    async def set_builtin_type_codec(self, typename: str, *, schema: str = "public", **how: Any) -> None:
        """As asyncpg's; a full reset takes it back."""
        await super().set_builtin_type_codec(typename, schema=schema, **how)
        self._note_codec(schema, typename, _Codec("set_builtin_type_codec", how))

    async def reset_type_codec(self, typename: str, *, schema: str = "public") -> None:
        """As asyncpg's; a full reset takes it back."""
        await super().reset_type_codec(typename, schema=schema)
        self._note_codec(schema, typename, None)

    async def answer(self) -> None:
        """Make a round trip."""
        await self.execute("SELECT 1")

    async def fitness(self) -> tuple[bool, bool]:
        """Ask whether the node is a standby, and read-only."""
        row = await self.fetchrow(FITNESS)
        assert row is not None  # noqa: S101 - a SELECT without FROM
        return row[0], row[1] == "on"

    @property
    def version(self) -> str:
        return str(self.get_settings().server_version)

    async def hang_up(self) -> None:
        """Say goodbye and wait until the server has hung up."""
        await self.close()

    def cut_off(self) -> None:
        """Close at once, in whatever state it is, even when its loop is closed."""
        cut(self.terminate, self._transport)

    @property
    def wire(self) -> Any:
        """The socket, as asyncpg's transport shows it; None when there is none."""
        return self._transport.get_extra_info("socket")

    def filenos(self) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        wire = None if self.is_closed() else self.wire
        fileno = wire.fileno() if wire is not None else -1
        return (fileno,) if fileno >= 0 else ()

    async def store(self, statement: str, *values: str) -> int:
        """Run one statement with `$1` and on; says how many rows it touched."""
        return rows_of(await self.execute(statement, *values))

    async def run(self, statement: str) -> None:
        """Run one statement without values."""
        await self.execute(statement)

    @staticmethod
    def is_fatal(error: BaseException) -> bool:
        """The connection is of no use after this, whatever asyncpg has noticed so far."""
        return isinstance(error, _FATAL)

    @staticmethod
    def is_demotion(error: BaseException) -> bool:
        """A write was refused because it was to be read-only."""
        return isinstance(error, pg.ReadOnlySQLTransactionError)

    @staticmethod
    def is_refusal(error: BaseException) -> bool:
        """A server, asked again, would only say it again: about where to, and with which settings."""
        return isinstance(error, _REFUSED) or _said(error) in (Refusal.DATABASE, Refusal.SETTING)

    @staticmethod
    def is_about_credentials(error: BaseException) -> bool:
        """As `is_refusal`, about who we are."""
        # InvalidPasswordError is below it.
        is_servers = isinstance(error, pg.InvalidAuthorizationSpecificationError)
        return is_servers or _said(error) in (Refusal.PASSWORD, Refusal.USER)

    @staticmethod
    def key_of(error: BaseException) -> str | None:
        """What PgBouncer complains of; None: asyncpg's errors tell by their types."""
        said = _said(error)
        return None if said is None else said.value


def _said(error: BaseException) -> Refusal | None:
    # PgBouncer has one code for whatever it refuses, which PostgreSQL has for broken clients.
    return refusal_in(str(error)) if isinstance(error, pg.ProtocolViolationError) else None


async def _tls(target: Target) -> tls.SSLContext | str | bool:
    if target.ssl == "disable":
        return False
    if target.ssl == "prefer":
        return "prefer"
    return await tls_context(target.ssl, target.ssl_files)
