"""PostgreSQL on asyncpg, or on psycopg 3.

What a reset covers, by the pool's `reset` level:

    none      Nothing is sent. A connection that comes back in a transaction, with another autocommit
              than the configured one, or (asyncpg) while a cancelled query is being given up, is
              discarded. For PgBouncer in transaction mode, together with `statement_cache_size=0`.
    rollback  An open transaction is rolled back, a cancelled query is waited for, autocommit is set
              back; nothing is sent when there is none of these. Settings, locks, LISTEN and temporary
              tables stay.
    full      That, and after every lease: session authorization and role, all settings (back
              to what `server_settings` and the role say), cursors, LISTEN, advisory locks,
              cached plans, temporary tables, sequence state, statements made by SQL PREPARE,
              callbacks of add_listener. The library's own prepared statements survive. Needs
              plpgsql, which is in every database unless dropped.

A full reset also brings the client's side back to what the pool's `on_connect` made of it. With asyncpg:
type codecs, query loggers, log and termination listeners. With psycopg: row, cursor and server cursor
factories, adapters, handlers of notices and notifications, isolation level, read_only, deferrable,
prepare_threshold and prepared_max. Settings that `on_connect` makes with SET, and its LISTEN, do not
outlive the first full reset: give settings as `server_settings`.

A cancelled statement costs no connection while the server answers. asyncpg returns at once and gives the
statement up in the background; a `copy_from_...` that fails here or is cancelled costs the connection,
because asyncpg may wait for ever for an answer that it has had. psycopg waits until the statement has ended,
for a second at most, and closes the connection otherwise. With psycopg a connection goes, whatever the level,
that comes back with an answer unread (a COPY or a stream left open), in pipeline mode, inside a
`transaction()` block, in a two-phase transaction, or with a task still on it.

Broken is what the library knows to be closed (psycopg: or the kernel, which is asked), and errors of
classes 08, 57P and 25P03. A query that failed, and any error of the borrower's own, says nothing about the
connection.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from millpond.driver import Verdict
from millpond.drivers import _options as check
from millpond.drivers._postgresql_session import Session, Target
from millpond.drivers._shared import Password, Secrets, Unfit, chain, quoted
from millpond.drivers._tls import TlsFiles
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings, ResetLevel

if find_spec("asyncpg") is None and find_spec("psycopg") is None:
    raise MissingExtra("postgresql", needed_for="PostgreSQLDriver", module="asyncpg")

Library: TypeAlias = Literal["asyncpg", "psycopg"]
SslMode: TypeAlias = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
Access: TypeAlias = Literal["any", "read-write"]

# Looked up at every lease: an attribute of an enum class costs more than a global.
_KEEP: Final = Verdict.KEEP
_RESET: Final = Verdict.RESET
_LONGEST_IDENTIFIER: Final = 63  # NAMEDATALEN - 1, bytes
_MOST_MILLISECONDS: Final = 2**31 - 1  # what statement_timeout can hold

_CONNECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "asyncpg": ("millpond.drivers._asyncpg", "AsyncpgConnection"),
    "psycopg": ("millpond.drivers._psycopg", "PsycopgConnection"),
}


class PostgreSQLDriver:
    """This connects to one PostgreSQL server with asyncpg or psycopg 3.

    Args:
        library: `asyncpg`, or `psycopg` (extra `millpond[psycopg]`); the connections that a pool lends
            are this library's: `asyncpg.Connection`, `psycopg.AsyncConnection`.
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
        command_timeout: the longest asyncpg waits for an answer, seconds; None: no limit. psycopg has
            no such limit: `statement_timeout` is the server's own.
        statement_cache_size: most prepared statements that the library keeps; 0: none.
        autocommit: whether each statement commits by itself, which is all that asyncpg knows.
            psycopg's own default is not to: what a lease has not committed is rolled back at its end.
        tcp_keepalive: seconds of silence before the kernel asks whether the peer is there;
            None: never.
        tcp_user_timeout: seconds that sent bytes may stay unacknowledged; None: the kernel's limit.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
        MissingExtra: the library is not installed.
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
        library: Library = "asyncpg",
        host: str = "localhost",
        port: int = 5432,
        database: str | None = None,
        user: str | None = None,
        password: Password | None = None,
        ssl: SslMode = "prefer",
        ssl_root_cert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        session: Access = "read-write",
        application_name: str = "millpond",
        server_settings: Mapping[str, str] | None = None,
        statement_timeout: float | None = None,
        command_timeout: float | None = None,
        statement_cache_size: int = 100,
        autocommit: bool = True,
        tcp_keepalive: float | None = 30.0,
        tcp_user_timeout: float | None = 30.0,
    ) -> None:
        check.one_of("library", library, get_args(Library))
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
        check.one_of("session", session, get_args(Access))
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
        if library == "psycopg" and command_timeout is not None:
            raise ValueError("command_timeout: psycopg has no such limit, use statement_timeout")
        check.whole("statement_cache_size", statement_cache_size, least=0)
        check.flag("autocommit", autocommit)
        if library == "asyncpg" and not autocommit:
            raise ValueError("autocommit: asyncpg always commits by itself, use library psycopg")
        check.seconds("tcp_keepalive", tcp_keepalive)
        check.seconds("tcp_user_timeout", tcp_user_timeout)

        self._secrets = Secrets()
        if isinstance(password, str):
            self._secrets.add(password)
        own_settings = {"application_name": application_name}
        if statement_timeout is not None:
            own_settings["statement_timeout"] = str(round(statement_timeout * 1000))
        module, connection = _CONNECTIONS[library]
        self._connection_class: type[Session] = getattr(import_module(module), connection)
        self.library = library
        self.host, self.port, self.database, self.user = host, port, database, user
        self.session, self.autocommit = session, autocommit
        self._target = Target(
            host=host,
            port=port,
            database=database,
            user=user,
            password=password,
            ssl=ssl,
            ssl_files=files,
            settings={**own_settings, **settings},
            command_timeout=command_timeout,
            statement_cache_size=statement_cache_size,
            autocommit=autocommit,
            keepalive=tcp_keepalive,
            user_timeout=tcp_user_timeout,
            secrets=self._secrets,
        )
        self._reset_level: ResetLevel = "full"

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
        if self._target.password is None:
            from_environment.add(os.environ.get("PGPASSWORD", ""))
        return from_environment.redact(self._secrets.redact(text))

    def __repr__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        database = f"/{self.database}" if self.database is not None else ""
        return f"<PostgreSQLDriver {user}{self.host}:{self.port}{database}>"

    # Any, because a class cannot say in its type which library an option has chosen.
    async def connect(self) -> Any:
        """Open one connection, of the library's own class or rather a subclass of it.

        Raises:
            Unfit: the server is read-only and this driver wants to write.
            OSError, Exception: as the library says.
        """
        conn = await self._connection_class.open(self._target)
        try:
            if self._must_write:
                await self._check_fitness(conn)
        except BaseException:
            self.terminate(conn)
            raise
        return conn

    async def ping(self, conn: Session) -> None:
        """Make a round trip; with `session="read-write"` it also asks whether the node may be written to.

        One round trip; with asyncpg two the first time on a connection, and always with
        `statement_cache_size=0`. It begins no transaction.

        Raises:
            Unfit: the node is a standby or read-only.
            OSError, Exception: it is dead, as the library says.
        """
        if self._must_write:
            in_recovery, read_only = await conn.fitness()
            self._require_writable(in_recovery=in_recovery, read_only=read_only)
        else:
            await conn.answer()

    async def reset(self, conn: Session) -> None:
        """Roll back, and at level `full` bring the session back to what it was after connecting.

        Raises:
            OSError, Exception: it could not be done, as the library says; terminate it.
        """
        # First, because asyncpg's own reset complains loudly about an open transaction.
        await conn.settle()
        if self._reset_level == "full":
            await conn.clean()

    def remember(self, conn: Session) -> None:
        """Take the client's side as it is for the one that a full reset comes back to."""
        conn.remember()

    async def close(self, conn: Session) -> None:
        """Say goodbye, and with asyncpg wait until the server has hung up."""
        await conn.hang_up()

    def terminate(self, conn: Session) -> None:
        """Cut the connection at once, in whatever state it is, even when its loop is closed."""
        conn.cut_off()

    def is_closed(self, conn: Session) -> bool:
        """True when this side knows it: asyncpg hears the peer close, for psycopg the kernel is asked."""
        return conn.is_lost

    def after_lease(self, conn: Session, error: BaseException | None) -> Verdict:
        """Judge a connection by what is known of it, and by what `error` and its causes say."""
        if error is not None and self._must_write and self._was_demoted(conn, error):
            return Verdict.DISCARD_ALL
        if conn.is_lost or conn.is_unfinished:
            return Verdict.DISCARD
        if error is not None and any(map(conn.is_fatal, chain(error))):
            return Verdict.DISCARD
        level = self._reset_level
        if level == "full":
            return _RESET  # what SET and its kind have done cannot be seen from here
        if not conn.is_unsettled:
            return _KEEP
        return _RESET if level == "rollback" else Verdict.DISCARD

    def is_permanent(self, error: BaseException) -> bool:
        """True for wrong credentials, an unknown database or setting, a certificate that does not hold.

        Not for a full or starting server, a refused connection, or a name that does not resolve; nor
        for wrong credentials where the password is a function, which may know a newer one next time.
        """
        session = self._connection_class
        return any(
            session.is_refusal(each)
            or (session.is_about_credentials(each) and not callable(self._target.password))
            for each in chain(error)
        )

    def key_of(self, error: BaseException) -> str | None:
        """The option that a failed connect points at; None: nobody can tell, or its type tells."""
        return self._connection_class.key_of(error)

    async def server_version(self, conn: Session) -> str:
        """What the server called itself when the connection was opened; no I/O."""
        return f"PostgreSQL {conn.version.partition(' ')[0]}"

    def filenos(self, conn: Session) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        return conn.filenos()

    @property
    def _must_write(self) -> bool:
        return self.session == "read-write"

    async def _check_fitness(self, conn: Session) -> None:
        reported = conn.reported
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

    def _was_demoted(self, conn: Session, error: BaseException) -> bool:
        if not any(map(conn.is_demotion, chain(error))):
            return False
        # A borrower that writes in a transaction of its own that is READ ONLY gets the same error from a
        # healthy primary. Servers since version 14 tell us, unasked, which of the two it is.
        reported = None if conn.is_lost else conn.reported
        return reported is None or any(reported)


_LIBPQ_NAMES: Final[Mapping[str, str]] = {
    "dbname": "database",
    "sslmode": "ssl",
    "sslrootcert": "ssl_root_cert",
    "sslcert": "ssl_cert",
    "sslkey": "ssl_key",
    "target_session_attrs": "session",
}

_IN_URL: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("library", "host", "database", "user", "password", "application_name"), str),
    **dict.fromkeys(("ssl", "ssl_root_cert", "ssl_cert", "ssl_key", "session"), str),
    **dict.fromkeys(("port", "statement_cache_size"), int),
    "autocommit": check.truth,
    **dict.fromkeys(("statement_timeout", "command_timeout", "tcp_keepalive", "tcp_user_timeout"), float),
}
