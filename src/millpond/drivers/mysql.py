"""MySQL and MariaDB on asyncmy, or on aiomysql.

What a reset covers, by the pool's `reset` level:

    none      Nothing is sent. A connection that comes back in a transaction, or with another
              autocommit than the configured one, is discarded. What is not seen: a transaction
              that a procedure began before it failed.
    rollback  An open transaction is rolled back, also where nobody knows whether there is one
              (after an error), and autocommit is set back. Nothing is sent when there is neither.
              Settings, locks, temporary tables, variables and the current database stay.
    full      That, and after every lease: COM_RESET_CONNECTION (user variables, all settings,
              temporary tables, GET_LOCK, LOCK TABLES, HANDLER, prepared statements, LAST_INSERT_ID,
              character set, XA transactions that are not prepared), and then what that command
              leaves as it was: the current database and the role. `server_settings` and
              `init_statements` are applied again. Two round trips. Without a `database` there is
              no way back from USE: the reset fails, and the connection goes. Servers since MySQL
              5.7.3 and MariaDB 10.2.4; where a proxy does not let the command through, connecting
              fails and says so: choose `rollback`.

A full reset also brings back what belongs to the client, as the pool's `on_connect` left it: decoders,
encoders and cursor class. With aiomysql each connection has mappings of its own.

A cancelled statement costs the connection, whatever the level: the protocol has no way to take a
question back. The server goes on with the statement until it ends, and notices only then that nobody
is there; `statement_timeout` bounds that. The same goes for rows that were not fetched to the end, and
for two tasks on one connection, of which the second is refused.

Broken is what the library knows to be closed, what has an answer left to read, and the server's
and the library's errors about the connection. A query that failed, and any error of the
borrower's own, says nothing about the connection.
"""

from __future__ import annotations

import copy
import socket
import ssl as tls
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from millpond.driver import Verdict
from millpond.drivers import _mysql_errors as errors
from millpond.drivers import _options as check
from millpond.drivers._mysql_session import Session
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

if find_spec("asyncmy") is None and find_spec("aiomysql") is None:
    raise MissingExtra("mysql", needed_for="MySQLDriver", module="asyncmy")

Library: TypeAlias = Literal["asyncmy", "aiomysql"]
SslMode: TypeAlias = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
Access: TypeAlias = Literal["any", "read-write"]

_CONNECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "asyncmy": ("millpond.drivers._asyncmy", "AsyncmyConnection"),
    "aiomysql": ("millpond.drivers._aiomysql", "AiomysqlConnection"),
}

# Looked up at every lease: an attribute of an enum class costs more than a global.
_KEEP: Final = Verdict.KEEP
_RESET: Final = Verdict.RESET
_LONGEST_IDENTIFIER: Final = 64  # characters
_LONGEST_APPLICATION_NAME: Final = 64  # bytes; all attributes together must stay below 251
_LONGEST_STATEMENT_TIMEOUT: Final = 2_147_483.0  # max_execution_time counts milliseconds in 32 bits

_ROLE_NOT_SET: Final = "NONE"


class CannotReset(ConnectionError):
    """The server, or a proxy before it, does not know the command that a full reset needs."""


class MySQLDriver:
    """This connects to one MySQL or MariaDB server with asyncmy or aiomysql.

    Text travels as utf8mb4.

    Args:
        library: `asyncmy`, or `aiomysql` (extra `millpond[aiomysql]`); the connections that a pool lends
            are this library's.
        host: name or address, or the path of a Unix socket (begins with `/`).
        port: TCP port.
        database: the current database of a clean session; None: none.
        user: whom to log in as; None: the operating system's user.
        password: the password, or a function, sync or async, that is asked for it at each
            connect; None: none.
        ssl: `disable`, `prefer` (TLS where the server has it, nothing verified), `require`
            (nothing verified), `verify-ca`, `verify-full` (the host's name too). A Unix socket
            has none.
        ssl_root_cert: file of the authorities that `verify-ca` and `verify-full` trust;
            None: the system's.
        ssl_cert: file of the client's certificate.
        ssl_key: file of its key; None: the key is in `ssl_cert`.
        session: `read-write` refuses a node that is read-only, at connect and at every ping, and
            takes a write refused as read-only for a failover. `any`, for replicas, takes what it
            finds.
        application_name: how the connection calls itself at the server (attribute `program_name`).
        autocommit: whether each statement commits by itself. The libraries' own default is not to:
            what a lease has not committed is rolled back at its end.
        charset: there is only one; the key is here because many URLs have it.
        collation: how texts of the session compare; None: the server's default for utf8mb4.
        server_settings: more variables of the session, by name.
        init_statements: statements that belong to a clean session, run after connecting and after
            each full reset.
        statement_timeout: the longest the server lets a statement run, seconds; None: the server's
            own setting. MySQL bounds only SELECT.
        tcp_keepalive: seconds of silence before the kernel asks whether the peer is there;
            None: never.
        tcp_user_timeout: seconds that sent bytes may stay unacknowledged; None: the kernel's limit.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
        MissingExtra: the library is not installed.
    """

    kind: ClassVar[str] = "mysql"
    schemes: ClassVar[tuple[str, ...]] = ("mysql", "mariadb")
    extra: ClassVar[str] = "mysql"
    default_sizes: ClassVar[tuple[int, int]] = (1, 10)
    secret_options: ClassVar[frozenset[str]] = frozenset({"password"})

    name: str = "mysql"

    def __init__(
        self,
        *,
        library: Library = "asyncmy",
        host: str = "localhost",
        port: int = 3306,
        database: str | None = None,
        user: str | None = None,
        password: Password | None = None,
        ssl: SslMode = "prefer",
        ssl_root_cert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        session: Access = "read-write",
        application_name: str = "millpond",
        autocommit: bool = True,
        charset: Literal["utf8mb4"] = "utf8mb4",
        collation: str | None = None,
        server_settings: Mapping[str, str | int | float] | None = None,
        init_statements: Sequence[str] | None = None,
        statement_timeout: float | None = None,
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
        if host.startswith("/") and ssl not in ("disable", "prefer"):
            raise ValueError(f"ssl: a Unix socket has no TLS, use disable or prefer; ssl is {ssl!r}")
        files = TlsFiles(root_cert=ssl_root_cert, cert=ssl_cert, key=ssl_key)
        files.check(ssl)
        check.one_of("session", session, get_args(Access))
        check.text("application_name", application_name, optional=False)
        if len(application_name.encode(errors="replace")) > _LONGEST_APPLICATION_NAME:
            raise ValueError(f"application_name: has at most {_LONGEST_APPLICATION_NAME} bytes")
        check.flag("autocommit", autocommit)
        check.one_of("charset", charset, ("utf8mb4",))
        check.word("collation", collation)
        settings = check.mapping("server_settings", server_settings, of=(str, int, float))
        own_options = ("autocommit", "max_statement_time", "max_execution_time")
        for name in settings:
            check.word("server_settings", name)
            if name.lower() in own_options:
                raise ValueError(f"server_settings: {name!r} is an option of its own")
        check.texts("init_statements", init_statements)
        check.seconds("statement_timeout", statement_timeout)
        if statement_timeout is not None and not 0.001 <= statement_timeout <= _LONGEST_STATEMENT_TIMEOUT:
            raise ValueError(
                f"statement_timeout: must be from 0.001 to {_LONGEST_STATEMENT_TIMEOUT:.0f} seconds, "
                f"got {statement_timeout!r}"
            )
        check.seconds("tcp_keepalive", tcp_keepalive)
        check.seconds("tcp_user_timeout", tcp_user_timeout)

        module, connection = _CONNECTIONS[library]
        self._connection_class: Any = getattr(import_module(module), connection)
        self._error: type[Exception] = self._connection_class.Error
        self.library = library
        self.host, self.port, self.database, self.user = host, port, database, user
        self.session, self.autocommit = session, autocommit
        self._password = password
        self._ssl, self._ssl_files = ssl, files
        self._application_name = application_name
        self._collation = collation
        self._server_settings = settings
        self._init_statements = tuple(init_statements or ())
        self._statement_timeout = statement_timeout
        self._keepalive, self._user_timeout = tcp_keepalive, tcp_user_timeout
        self._reset_level: ResetLevel = "full"
        self._questions = count(1)
        self._secrets = Secrets()
        if isinstance(password, str):
            self._secrets.add(password)

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `mysql://user:password@host:port/database?key=value` says.

        The keys are options of this class (but for mappings and lists), and names that other clients
        have for them: `unix_socket`, `program_name`, `ssl_mode` (its values too), `ssl_ca`.

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
        return check.with_query(said, parts.query, _IN_URL, _OTHER_NAMES)

    @staticmethod
    def quote_identifier(*parts: str) -> str:
        """A name as an SQL identifier; `("database", "table")` gives ``` `database`.`table` ```.

        Raises:
            ValueError: a part is empty, longer than 64 characters, ends with a space, or holds
                NUL or a character beyond U+FFFF.
        """
        for part in parts:
            if len(part) > _LONGEST_IDENTIFIER:
                raise ValueError(f"an identifier has at most {_LONGEST_IDENTIFIER} characters: {part!r}")
            if part.endswith(" ") or any(ord(letter) > 0xFFFF for letter in part):
                raise ValueError(f"an identifier ends with a space, or has a letter beyond U+FFFF: {part!r}")
        return quoted(*parts, mark="`")

    def configured(self, settings: PoolSettings) -> Self:
        """A copy of this driver whose resets go to the level that `settings` names."""
        bound = copy.copy(self)
        bound._reset_level = settings.reset
        return bound

    def redact(self, text: str) -> str:
        """`text` with the passwords masked that this driver knows, rotated ones included."""
        return self._secrets.redact(text)

    def __repr__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        place = self.host if self._is_local else f"{self.host}:{self.port}"
        database = f"/{self.database}" if self.database is not None else ""
        return f"<MySQLDriver {user}{place}{database}>"

    async def connect(self) -> Session:
        """Open one connection, of the library's own class or rather a subclass of it.

        Raises:
            Unfit: the server is read-only and this driver wants to write.
            CannotReset: the pool's reset level is `full`, and the server does not know that command.
            OSError: the server cannot be reached, or its certificate does not hold.
            Exception: as the library says.
        """
        password = b"" if self._password is None else (await ask(self._password, self._secrets)).encode()
        conn: Session = self._connection_class.unopened(
            host=self.host,
            path=self.host if self._is_local else None,
            port=self.port,
            database=self.database,
            user=self.user,
            password=password,
            charset="utf8mb4",
            program_name=self._application_name,
            ssl=await self._tls(),
        )
        conn.set_tls(is_required=self._ssl != "prefer")
        try:
            await conn.open()
            conn.forget_password()
            outlive_fork(conn)
            conn.remember()
            self._tune(conn)
            await self._look(conn, is_new=True)
            if self._reset_level == "full":
                await self._start_over(conn)
            else:
                await self._furnish(conn)
        except BaseException as error:
            # aiomysql leaves the socket open when it is cancelled.
            self.terminate(conn)
            if isinstance(error, conn.Error) and isinstance(error.__cause__, OSError):
                raise error.__cause__ from None  # aiomysql's own words leave out what it was
            raise
        return conn

    async def ping(self, conn: Session) -> None:
        """Ask one question, and see that it is its own answer that comes back.

        COM_PING would be content with whatever the server says next. With `session="read-write"` the same
        round trip says whether the node may be written to.

        Raises:
            Unfit: the node is read-only.
            OSError: the answer was another question's.
            Exception: it is dead, as the library says.
        """
        await self._look(conn)

    async def reset(self, conn: Session) -> None:
        """Roll back, and at level `full` bring the session back to what it was after connecting.

        Raises:
            Exception: it could not be done, as the library says; terminate it.
        """
        if conn.is_lost or conn.is_unfinished:
            raise conn.InterfaceError(0, "the connection is lost, or has an answer that nobody has read")
        if self._reset_level == "full":
            conn.put_back()
            await self._start_over(conn)
            return
        await conn.rollback()
        if conn.get_autocommit() is not self.autocommit:
            await conn.run(f"SET autocommit={self.autocommit:d}")

    def remember(self, conn: Session) -> None:
        """Take the client's side as it is for the one that a full reset comes back to."""
        conn.remember()

    async def close(self, conn: Session) -> None:
        """Say goodbye and wait until the connection is closed."""
        await conn.ensure_closed()

    def terminate(self, conn: Session) -> None:
        """Cut the connection at once, in whatever state it is, even when its loop is closed."""
        cut(conn.close, conn.transport)

    def is_closed(self, conn: Session) -> bool:
        """True when this side has heard that the peer has closed, also where the library does not say so."""
        return conn.is_lost

    def after_lease(self, conn: Session, error: BaseException | None) -> Verdict:
        """Judge a connection by what was heard of it, and by what `error` and its causes say."""
        if error is not None:
            failures = [each for each in chain(error) if isinstance(each, conn.Error)]
            must_write = self.session == "read-write"
            if must_write and any(map(errors.is_demotion, failures)):
                return Verdict.DISCARD_ALL
            if any(errors.is_loss(each, must_write=must_write) for each in failures):
                return Verdict.DISCARD
        if conn.is_lost or conn.is_unfinished:
            return Verdict.DISCARD
        level = self._reset_level
        if level == "full":
            return _RESET  # what SET and its kind have done cannot be seen from here
        is_changed = conn.is_in_transaction or conn.get_autocommit() is not self.autocommit
        if level == "rollback":
            return _RESET if is_changed or conn.is_in_doubt else _KEEP
        return Verdict.DISCARD if is_changed else _KEEP

    def is_permanent(self, error: BaseException) -> bool:
        """True for wrong credentials, an unknown database or setting, TLS that is refused or does not hold.

        Not for a full or starting server, a refused connection, or a name that does not resolve; nor
        for wrong credentials where the password is a function, which may know a newer one next time.
        """
        return any(
            isinstance(each, (tls.SSLCertVerificationError, BadTlsFile, CannotReset))
            or (isinstance(each, self._error) and self._is_for_ever(errors.code_of(each)))
            for each in chain(error)
        )

    def key_of(self, error: BaseException) -> str | None:
        """The option that a failed connect points at; None: nobody can tell."""
        if isinstance(error, tls.SSLError):
            return "ssl"
        return errors.OPTIONS.get(errors.code_of(error)) if isinstance(error, self._error) else None

    def _is_for_ever(self, code: int) -> bool:
        return code in errors.PERMANENT or (code in errors.WRONG_CREDENTIALS and not callable(self._password))

    async def server_version(self, conn: Session) -> str:
        """What the server called itself when the connection was opened; no I/O."""
        number = conn.server_version.removeprefix("5.5.5-").partition("-")[0]
        return f"{'MariaDB' if 'MariaDB' in conn.server_version else 'MySQL'} {number}"

    def filenos(self, conn: Session) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        wire = _wire(conn)
        fileno = -1 if wire is None else wire.fileno()
        return (fileno,) if fileno >= 0 else ()

    @property
    def _is_local(self) -> bool:
        return self.host.startswith("/")

    async def _tls(self) -> tls.SSLContext | None:
        if self._ssl == "disable" or self._is_local:
            return None
        return await tls_context("require" if self._ssl == "prefer" else self._ssl, self._ssl_files)

    def _tune(self, conn: Session) -> None:
        wire = _wire(conn)
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)  # the libraries switch it on
            tune_socket(wire, keepalive=self._keepalive, user_timeout=self._user_timeout)

    async def _look(self, conn: Session, *, is_new: bool = False) -> None:
        """Make a round trip; see whether the node is fit, and for a new connection which role it has."""
        question = next(self._questions)
        has_roles = is_new and self._reset_level == "full" and _has_roles(conn.server_version)
        rows = await conn.run(
            f"SELECT {question}"
            + (", @@global.read_only, @@global.innodb_read_only" if self.session == "read-write" else "")
            + (", CURRENT_ROLE()" if has_roles else "")
        )
        found = rows[0] if rows else (None,)
        if found[0] != question:
            conn.close()
            raise ConnectionError("the server's answer belongs to another question")
        if self.session == "read-write" and not {str(each) for each in found[1:3]} <= {"0", "OFF"}:
            raise Unfit(
                f"the server at {self.host}:{self.port} is read-only, and this pool is for a primary; "
                "for a replica, set session to 'any'"
            )
        if has_roles:
            conn.role = self._role(conn, found[-1])

    def _role(self, conn: Session, current: str | None) -> str:
        if current is None or current == _ROLE_NOT_SET:
            return _ROLE_NOT_SET
        # MySQL answers with names that are quoted already, MariaDB with one that is not.
        return self.quote_identifier(current) if "MariaDB" in conn.server_version else current

    async def _start_over(self, conn: Session) -> None:
        try:
            await conn.start_over()
        except conn.Error as error:
            if errors.code_of(error) != errors.UNKNOWN_COMMAND:
                raise
            raise CannotReset(
                "the server, or a proxy before it, does not know COM_RESET_CONNECTION, which reset 'full' "
                "needs; set reset to 'rollback'"
            ) from error
        await self._furnish(conn)

    async def _furnish(self, conn: Session) -> None:
        """Make the session what the configuration says, on a new connection or after COM_RESET_CONNECTION."""
        statements = []
        if self.database is not None:
            statements.append(f"USE {quoted(self.database, mark='`')}")
        if conn.role is not None:
            statements.append(f"SET ROLE {conn.role}")
        statements.append(f"SET {', '.join(self._assignments(conn))}")
        if self.database is None:
            statements.insert(0, "SELECT DATABASE()")
        rows = await conn.run(";".join(statements))
        if self.database is None and rows[0][0] is not None:
            raise ConnectionError("the session is in a database, and without one there is no way back")
        for statement in self._init_statements:
            await conn.run(statement)
        if conn.is_in_transaction:
            await conn.rollback()

    def _assignments(self, conn: Session) -> list[str]:
        names = "NAMES utf8mb4" + (f" COLLATE {self._collation}" if self._collation is not None else "")
        found = [names, f"autocommit={self.autocommit:d}"]
        if self._statement_timeout is not None:
            found.append(
                f"max_statement_time={self._statement_timeout!r}"
                if "MariaDB" in conn.server_version
                else f"max_execution_time={max(1, round(self._statement_timeout * 1000))}"
            )
        return [*found, *(f"{name}={_literal(value)}" for name, value in self._server_settings.items())]


def _wire(conn: Session) -> Any:
    """The socket, as the transport shows it; None when there is none."""
    return None if conn.transport is None else conn.transport.get_extra_info("socket")


def _has_roles(version: str) -> bool:
    return "MariaDB" in version or not version.startswith(("5.", "4."))


def _literal(value: str | float) -> str:
    if not isinstance(value, str):
        return repr(value)
    # As bytes in hexadecimal: no setting of the server can read anything else into it.
    return f"CONVERT(0x{value.encode().hex()} USING utf8mb4)" if value else "''"


def _ssl_mode(value: str) -> str:
    """Our word for TLS, also for MySQL's own."""
    own = {
        "disabled": "disable", "preferred": "prefer", "required": "require", "verify_ca": "verify-ca",
        "verify_identity": "verify-full",
    }  # fmt: skip
    return own.get(value.lower(), value)


_OTHER_NAMES: Final[Mapping[str, str]] = {
    "unix_socket": "host",
    "program_name": "application_name",
    "ssl_mode": "ssl",
    "ssl-mode": "ssl",
    "ssl_ca": "ssl_root_cert",
}

_IN_URL: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("library", "host", "database", "user", "password", "application_name", "charset"), str),
    **dict.fromkeys(("collation", "session", "ssl_root_cert", "ssl_cert", "ssl_key"), str),
    "ssl": _ssl_mode,
    "port": int,
    "autocommit": check.truth,
    **dict.fromkeys(("statement_timeout", "tcp_keepalive", "tcp_user_timeout"), float),
}
