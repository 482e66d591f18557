"""PostgreSQL on asyncpg.

What a reset covers, by the pool's `reset` level:

    none      Nothing is sent. A connection that comes back in a transaction, or while a
              cancelled query is being given up, is discarded. For PgBouncer in transaction
              mode, together with `statement_cache_size=0`.
    rollback  An open transaction is rolled back, a cancelled query is waited for; nothing
              is sent when there is neither. Settings, locks, LISTEN and temporary tables stay.
    full      That, and after every lease: session authorization and role, all settings (back
              to what `server_settings` and the role say), cursors, LISTEN, advisory locks,
              cached plans, temporary tables, sequence state, statements made by SQL PREPARE,
              callbacks of add_listener and add_log_listener. asyncpg's own prepared
              statements survive. Needs plpgsql, which is in every database unless dropped.

What stays at every level is what belongs to the client: type codecs, query loggers,
termination listeners. These are what a pool's `on_connect` is for; settings that it makes
with SET do not outlive the first full reset: give them as `server_settings`.

Broken is what asyncpg knows to be closed, and errors of classes 08, 57P and 25P03. A query
that failed, and any error of the borrower's own, says nothing about the connection.
"""

import copy
import os
import ssl as tls
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from millpond.driver import Verdict
from millpond.drivers import _options as check
from millpond.drivers._shared import (
    Password,
    Secrets,
    Unfit,
    ask,
    chain,
    cut,
    outlive_fork,
    quoted,
    tune_socket,
)
from millpond.drivers._tls import BadTlsFile, TlsFiles, tls_context
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings, ResetLevel

try:
    import asyncpg
    from asyncpg import exceptions as pg
except ModuleNotFoundError as missing:
    raise MissingExtra("postgresql", needed_for="PostgreSQLDriver", module="asyncpg") from missing

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

SslMode: TypeAlias = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
Session: TypeAlias = Literal["any", "read-write"]

_LONGEST_IDENTIFIER: Final = 63  # NAMEDATALEN - 1, bytes
_MOST_MILLISECONDS: Final = 2**31 - 1  # what statement_timeout can hold

# DISCARD ALL would do the same and more: it also drops asyncpg's prepared statements, behind its back.
# RESET ROLE comes after SET SESSION AUTHORIZATION, which sets the role to none whatever
# `server_settings` says; RESET ALL does not touch the role.
_CLEAN_SESSION: Final = """\
CLOSE ALL;
SET SESSION AUTHORIZATION DEFAULT;
RESET ROLE;
RESET ALL;
UNLISTEN *;
SELECT pg_catalog.pg_advisory_unlock_all();
DISCARD PLANS;
DISCARD TEMP;
DISCARD SEQUENCES;
DO $$
DECLARE statement text;
BEGIN
  FOR statement IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
    EXECUTE pg_catalog.format('DEALLOCATE %I', statement);
  END LOOP;
END $$;
"""

# In recovery every transaction is read-only; the first column is there to say which of the two it is.
_FITNESS: Final = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')"

# The connection is of no use after these, whatever asyncpg has noticed so far.
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

# What a server, asked again, would only say again: about who we are, where to, and with which settings.
_WRONG_CREDENTIALS: Final = pg.InvalidAuthorizationSpecificationError  # and, below it, InvalidPasswordError
_PERMANENT: Final = (
    pg.InvalidCatalogNameError,
    pg.InsufficientPrivilegeError,
    pg.UndefinedObjectError,
    pg.InvalidParameterValueError,
    pg.CantChangeRuntimeParamError,
    pg.ClientConfigurationError,
    tls.SSLCertVerificationError,
    BadTlsFile,
)


class PostgreSQLConnection(_Connection):
    """An asyncpg connection whose `reset()` leaves nothing of the last borrower behind."""

    # What asyncpg's own pool uses, and its type stubs leave out.
    _protocol: Any
    _transport: Any
    _pool_release_ctr: int

    def get_reset_query(self) -> str:
        """Statements that bring the session back to what it was after connecting."""
        return _CLEAN_SESSION

    @property
    def is_cancelling(self) -> bool:
        """A query was cancelled or timed out, and the server has not yet acknowledged it."""
        return bool(self._protocol._is_cancelling())

    @property
    def is_unsettled(self) -> bool:
        """There is something that a rollback has to see to before the next borrower."""
        # _top_xact: asyncpg believes in a transaction that was ended by hand, and would open a
        # savepoint where the next borrower asks for a transaction.
        return self.is_cancelling or self.is_in_transaction() or self._top_xact is not None

    async def settle(self) -> None:
        """Wait for a cancelled query to end, and roll back what is open."""
        if self.is_closed():
            raise pg.InterfaceError("connection is closed")
        await self._protocol._wait_for_cancellation()
        if self.is_in_transaction():
            await self.execute("ROLLBACK")
        self._top_xact = None
        # What the last borrower still has in hand (a transaction object, a cursor, a prepared
        # statement) is refused from now on, as after a release to asyncpg's own pool.
        self._pool_release_ctr += 1

    @property
    def wire(self) -> Any:
        """The socket, as asyncpg's transport shows it; None when there is none."""
        return self._transport.get_extra_info("socket")


class PostgreSQLDriver:
    """This connects to one PostgreSQL server with asyncpg.

    Args:
        host: name or address, or the directory of a Unix socket (begins with `/`).
        port: TCP port; also part of a Unix socket's name.
        database: name of the database; None: PGDATABASE, else the same as the user.
        user: whom to log in as; None: PGUSER, else the operating system's user.
        password: the password, or a function, sync or async, that is asked for it at each
            connect; None: PGPASSWORD, else the password file (`~/.pgpass`), else none.
        ssl: `disable`, `prefer` (TLS where the server has it, nothing verified), `require`
            (nothing verified), `verify-ca`, `verify-full` (the host's name too).
        ssl_root_cert: file of the authorities that `verify-ca` and `verify-full` trust;
            None: the system's.
        ssl_cert: file of the client's certificate.
        ssl_key: file of its key; None: the key is in `ssl_cert`.
        session: `read-write` refuses a standby and a node that is read-only, at connect and
            at every ping, and takes a write refused as read-only for a failover. `any`, for
            replicas and read-only roles, takes what it finds.
        application_name: how the connection calls itself at the server.
        server_settings: more settings of the session, by name.
        statement_timeout: the longest the server lets a statement run, seconds; None: the
            server's own setting.
        command_timeout: the longest asyncpg waits for an answer, seconds; None: no limit.
        statement_cache_size: most prepared statements that asyncpg keeps; 0: none.
        tcp_keepalive: seconds of silence before the kernel asks whether the peer is there;
            None: never.
        tcp_user_timeout: seconds that sent bytes may stay unacknowledged; None: the kernel's limit.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
    """

    kind: ClassVar[str] = "postgresql"
    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    extra: ClassVar[str] = "postgresql"
    default_sizes: ClassVar[tuple[int, int]] = (2, 10)
    secret_options: ClassVar[frozenset[str]] = frozenset({"password"})

    name: str = "postgresql"

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 5432,
        database: str | None = None,
        user: str | None = None,
        password: Password | None = None,
        ssl: SslMode = "prefer",
        ssl_root_cert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        session: Session = "read-write",
        application_name: str = "millpond",
        server_settings: Mapping[str, str] | None = None,
        statement_timeout: float | None = None,
        command_timeout: float | None = None,
        statement_cache_size: int = 100,
        tcp_keepalive: float | None = 30.0,
        tcp_user_timeout: float | None = 30.0,
    ) -> None:
        check.text("host", host, optional=False)
        if "," in host:
            raise ValueError("host: must be one host, not a list")
        check.whole("port", port, least=1, most=65535)
        check.text("database", database)
        check.text("user", user)
        check.password(password)
        check.one_of("ssl", ssl, get_args(SslMode))
        files = TlsFiles(root_cert=ssl_root_cert, cert=ssl_cert, key=ssl_key)
        files.check(ssl)
        check.one_of("session", session, get_args(Session))
        check.text("application_name", application_name, optional=False)
        settings = check.mapping("server_settings", server_settings, of=(str,))
        for name, option in (
            ("application_name", True),
            ("statement_timeout", statement_timeout is not None),
        ):
            if option and name in settings:
                raise ValueError(f"server_settings: {name!r} is an option of its own")
        check.seconds("statement_timeout", statement_timeout)
        if statement_timeout is not None and not 0.001 <= statement_timeout <= _MOST_MILLISECONDS / 1000:
            raise ValueError(
                f"statement_timeout: must be from 0.001 to {_MOST_MILLISECONDS / 1000} seconds, "
                f"got {statement_timeout!r}"
            )
        check.seconds("command_timeout", command_timeout)
        check.whole("statement_cache_size", statement_cache_size, least=0)
        check.seconds("tcp_keepalive", tcp_keepalive)
        check.seconds("tcp_user_timeout", tcp_user_timeout)

        self.host, self.port, self.database, self.user = host, port, database, user
        self.session = session
        self._password = password
        self._ssl, self._ssl_files = ssl, files
        self._server_settings = {"application_name": application_name, **settings}
        if statement_timeout is not None:
            self._server_settings["statement_timeout"] = str(round(statement_timeout * 1000))
        self._command_timeout = command_timeout
        self._statement_cache_size = statement_cache_size
        self._keepalive, self._user_timeout = tcp_keepalive, tcp_user_timeout
        self._reset_level: ResetLevel = "full"
        self._secrets = Secrets()
        if isinstance(password, str):
            self._secrets.add(password)

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `postgresql://user:password@host:port/database?key=value` says.

        The keys are options of this class (but for mappings), and libpq's names for them:
        `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `dbname`, `target_session_attrs`. A Unix
        socket's directory is given as `?host=/directory`, or as the host with its slashes quoted.

        Raises:
            ValueError: not such a URL; the text does not repeat its password.
        """
        parts = check.split(url, cls.schemes)
        said = {
            "host": parts.host,
            "port": parts.port,
            "database": parts.path.removeprefix("/") or None,
            "user": parts.user,
            "password": parts.password,
        }
        return check.with_query(said, parts.query, _IN_URL, _LIBPQ_NAMES)

    @staticmethod
    def quote_identifier(*parts: str) -> str:
        """A name as an SQL identifier; `("schema", "table")` gives `"schema"."table"`.

        Raises:
            ValueError: a part is empty, holds NUL, or is longer than PostgreSQL's 63 bytes.
        """
        return quoted(*parts, most_bytes=_LONGEST_IDENTIFIER)

    def configured(self, settings: PoolSettings) -> Self:
        """A copy of this driver whose resets go to the level that `settings` names."""
        bound = copy.copy(self)
        bound._reset_level = settings.reset
        return bound

    def redact(self, text: str) -> str:
        """`text` with the passwords masked that this driver knows, rotated ones included."""
        from_environment = Secrets()
        if self._password is None:
            from_environment.add(os.environ.get("PGPASSWORD", ""))
        return from_environment.redact(self._secrets.redact(text))

    def __repr__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        database = f"/{self.database}" if self.database is not None else ""
        return f"<PostgreSQLDriver {user}{self.host}:{self.port}{database}>"

    async def connect(self) -> PostgreSQLConnection:
        """Open one connection.

        Raises:
            Unfit: the server is read-only and this driver wants to write.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: as asyncpg says.
        """
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "database": self.database,
            "user": self.user,
            "password": None if self._password is None else self._ask_password,
            "ssl": await self._tls(),
            "timeout": None,  # the pool sets the limit
            "command_timeout": self._command_timeout,
            "statement_cache_size": self._statement_cache_size,
            "server_settings": self._server_settings,
            "target_session_attrs": "any",  # or PGTARGETSESSIONATTRS would decide
        }
        try:
            conn = await asyncpg.connect(connection_class=PostgreSQLConnection, **options)
        except OSError as error:
            if not self.host.startswith("/") or error.errno is None or error.filename is not None:
                raise
            # Of a Unix socket the system does not say which.
            raise OSError(error.errno, error.strerror, f"{self.host}/.s.PGSQL.{self.port}") from error
        outlive_fork(conn)
        try:
            tune_socket(conn.wire, keepalive=self._keepalive, user_timeout=self._user_timeout)
            if self._must_write:
                await self._check_fitness(conn)
        except BaseException:
            self.terminate(conn)
            raise
        return conn

    async def ping(self, conn: PostgreSQLConnection) -> None:
        """Make a round trip; with `session="read-write"` it also asks whether the node may be written to.

        One round trip, but two the first time on a connection, and always with
        `statement_cache_size=0`.

        Raises:
            Unfit: the node is a standby or read-only.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: it is dead.
        """
        if self._must_write:
            row = await conn.fetchrow(_FITNESS)
            assert row is not None  # noqa: S101 - a SELECT without FROM
            self._require_writable(in_recovery=row[0], read_only=row[1] == "on")
        else:
            await conn.execute("SELECT 1")

    async def reset(self, conn: PostgreSQLConnection) -> None:
        """Roll back, and at level `full` bring the session back to what it was after connecting.

        Raises:
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: it could not be done; terminate it.
        """
        # First, because asyncpg's own reset complains loudly about an open transaction.
        await conn.settle()
        if self._reset_level == "full":
            await conn.reset()

    async def close(self, conn: PostgreSQLConnection) -> None:
        """Say goodbye and wait until the server has hung up."""
        await conn.close()

    def terminate(self, conn: PostgreSQLConnection) -> None:
        """Cut the connection at once, in whatever state it is, even when its loop is closed."""
        cut(conn.terminate, conn._transport)

    def is_closed(self, conn: PostgreSQLConnection) -> bool:
        """True when asyncpg knows it: it hears of it as soon as the peer closes."""
        return conn.is_closed()

    def after_lease(self, conn: PostgreSQLConnection, error: BaseException | None) -> Verdict:
        """Judge a connection by what asyncpg knows of it, and by what `error` and its causes say."""
        if error is not None and self._must_write and self._was_demoted(conn, error):
            return Verdict.DISCARD_ALL
        if conn.is_closed() or any(isinstance(each, _FATAL) for each in chain(error)):
            return Verdict.DISCARD
        match self._reset_level:
            case "full":
                # What SET and its kind have done cannot be seen from here.
                return Verdict.RESET
            case "rollback":
                return Verdict.RESET if conn.is_unsettled else Verdict.KEEP
            case _:
                return Verdict.DISCARD if conn.is_unsettled else Verdict.KEEP

    def is_permanent(self, error: BaseException) -> bool:
        """True for wrong credentials, an unknown database or setting, a certificate that does not hold.

        Not for a full or starting server, a refused connection, or a name that does not resolve; nor
        for wrong credentials where the password is a function, which may know a newer one next time.
        """
        return any(
            isinstance(each, _PERMANENT)
            or (isinstance(each, _WRONG_CREDENTIALS) and not callable(self._password))
            for each in chain(error)
        )

    def filenos(self, conn: PostgreSQLConnection) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        wire = None if conn.is_closed() else conn.wire
        fileno = wire.fileno() if wire is not None else -1
        return (fileno,) if fileno >= 0 else ()

    @property
    def _must_write(self) -> bool:
        return self.session == "read-write"

    async def _ask_password(self) -> str:
        """The password of now; asyncpg calls this at each connect and keeps only the question."""
        assert self._password is not None  # noqa: S101 - or asyncpg were not given this function
        return await ask(self._password, self._secrets)

    async def _tls(self) -> tls.SSLContext | str | bool:
        if self._ssl == "disable":
            return False
        if self._ssl == "prefer":
            return "prefer"
        return await tls_context(self._ssl, self._ssl_files)

    async def _check_fitness(self, conn: PostgreSQLConnection) -> None:
        reported = _reported(conn)
        if reported is None:
            await self.ping(conn)
        else:
            self._require_writable(in_recovery=reported[0], read_only=reported[1])

    def _require_writable(self, *, in_recovery: bool, read_only: bool) -> None:
        if in_recovery or read_only:
            what = "is a standby" if in_recovery else "is read-only"
            raise Unfit(
                f"the server at {self.host}:{self.port} {what}, and this pool is for a primary; "
                "for a replica or a read-only role, set session to 'any'"
            )

    def _was_demoted(self, conn: PostgreSQLConnection, error: BaseException) -> bool:
        if not any(isinstance(each, pg.ReadOnlySQLTransactionError) for each in chain(error)):
            return False
        # A borrower that writes in a transaction of its own that is READ ONLY gets the same error from a
        # healthy primary. Servers since version 14 tell us, unasked, which of the two it is.
        reported = None if conn.is_closed() else _reported(conn)
        return reported is None or any(reported)


def _reported(conn: PostgreSQLConnection) -> tuple[bool, bool] | None:
    """Whether the node is a standby, and read-only, as it last reported; None if it reports no such thing."""
    settings = conn.get_settings()
    standby = getattr(settings, "in_hot_standby", None)
    read_only = getattr(settings, "default_transaction_read_only", None)
    return None if standby is None or read_only is None else (standby == "on", read_only == "on")


_LIBPQ_NAMES: Final[Mapping[str, str]] = {
    "dbname": "database",
    "sslmode": "ssl",
    "sslrootcert": "ssl_root_cert",
    "sslcert": "ssl_cert",
    "sslkey": "ssl_key",
    "target_session_attrs": "session",
}

_IN_URL: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("host", "database", "user", "password", "application_name"), str),
    **dict.fromkeys(("ssl", "ssl_root_cert", "ssl_cert", "ssl_key", "session"), str),
    **dict.fromkeys(("port", "statement_cache_size"), int),
    **dict.fromkeys(("statement_timeout", "command_timeout", "tcp_keepalive", "tcp_user_timeout"), float),
}
