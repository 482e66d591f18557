"""Redis and Valkey on redis-py.

What a reset covers, by the pool's `reset` level:

    none      Nothing is sent. A connection that comes back in a MULTI, or watching a key, is
              discarded.
    rollback  An open MULTI is discarded, watched keys are watched no more; nothing is sent when
              there is neither. SELECT, CLIENT SETNAME and their kind stay.
    full      That, and after a lease that sent anything but plain commands on data: the whole
              session, by RESET and the greeting of a new connection, in one round trip. That
              asks for the password again. After any other lease nothing is sent.

Plain commands are those that are known to leave the session as it was (GET, EVALSHA, XREADGROUP, ...); the
connection reads along what is sent. SELECT, AUTH, HELLO, READONLY, CLIENT SETNAME and TRACKING, and
every command that is not known, call for a reset.

At every level a connection is discarded after SUBSCRIBE, MONITOR, CLIENT REPLY and QUIT, with an answer that
nobody has read, and when a request was cancelled or timed out: what the server sends next cannot be told
apart from what the next borrower asks for. A subscription belongs outside a pool: `pool.detach()`. At level
full it is also discarded after CLIENT NO-EVICT, NO-TOUCH and SETINFO, which RESET leaves as they are.

A full reset also brings back the client's response callbacks, as the pool's `on_connect` left them. What
`on_connect` changes in the session does not outlive the first full reset.

The server must know RESET and HELLO: Redis 6.2 or newer, Valkey. Broken is what the connection itself has
noticed; an answer that is an error says nothing about it, and neither does the borrower's own error.
"""

import asyncio
import copy
import ssl as tls
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from millpond.driver import Verdict
from millpond.drivers import _options as check
from millpond.drivers._shared import Password, Secrets, Unfit, ask, chain, outlive_fork, tune_socket
from millpond.drivers._tls import BadTlsFile, TlsFiles, tls_context
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings, ResetLevel

try:
    import redis
except ModuleNotFoundError as missing:
    raise MissingExtra("redis", needed_for="RedisDriver", module="redis") from missing

from redis.exceptions import NoPermissionError, ResponseError

from millpond.drivers._redis_client import RedisConnection, Wire

SslMode: TypeAlias = Literal["disable", "require", "verify-ca", "verify-full"]
Session: TypeAlias = Literal["any", "read-write"]
Protocol: TypeAlias = Literal[2, 3]

_KEEP: Final = Verdict.KEEP  # asked for at every lease: an attribute of an enum class costs more
_MOST_DATABASES: Final = 2**31 - 1
_ANYBODY: Final = "default"  # the user of whoever names none

# How TLS ends when the peer goes away in the middle; whatever else goes wrong with it, time does not mend.
_TLS_INTERRUPTED: Final = (tls.SSLEOFError, tls.SSLZeroReturnError, tls.SSLSyscallError, tls.SSLWantReadError)


class Refused(ResponseError):
    """The server does not do what this configuration asks for, and says why."""


class BadDatabase(Refused):
    """The server has no database of this number, or not for this user."""


class RedisDriver:
    """This connects to one Redis or Valkey server with redis-py.

    A lease gives redis-py's client, bound to one connection; pipelines and scripts use that one too.
    Concurrent commands in one lease take turns. Nothing is tried twice, and a connection that is lost is
    not opened again behind its borrower's back.

    Args:
        host: name or address, or the path of a Unix socket (begins with `/`).
        port: TCP port.
        database: number of the database.
        user: whom to log in as; None: the user `default`.
        password: the password, or a function, sync or async, that is asked for it at each
            connect and each full reset; None: none.
        ssl: `disable`, `require` (nothing verified), `verify-ca`, `verify-full` (the host's name
            too). There is no way to ask the server whether it has TLS. A Unix socket has none.
        ssl_root_cert: file of the authorities that `verify-ca` and `verify-full` trust;
            None: the system's.
        ssl_cert: file of the client's certificate.
        ssl_key: file of its key; None: the key is in `ssl_cert`.
        session: `read-write` refuses a replica, at connect and at every ping, and takes a
            refused write for a failover. `any`, for replicas, takes what it finds.
        client_name: how the connection calls itself at the server.
        protocol: 2 or 3, the version of the protocol and of the shapes of answers; None: version 3,
            with the shapes that redis-py has always had.
        decode_responses: answers are texts (UTF-8) rather than bytes.
        command_timeout: the longest redis-py waits for an answer, seconds; None: no limit. Less than
            a blocking command waits is too little.
        tcp_keepalive: seconds of silence before the kernel asks whether the peer is there;
            None: never.
        tcp_user_timeout: seconds that sent bytes may stay unacknowledged; None: the kernel's limit.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
    """

    kind: ClassVar[str] = "redis"
    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss", "valkey", "valkeys", "unix")
    extra: ClassVar[str] = "redis"
    default_sizes: ClassVar[tuple[int, int]] = (1, 10)
    secret_options: ClassVar[frozenset[str]] = frozenset({"password"})

    name: str = "redis"

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 6379,
        database: int = 0,
        user: str | None = None,
        password: Password | None = None,
        ssl: SslMode = "disable",
        ssl_root_cert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        session: Session = "read-write",
        client_name: str = "millpond",
        protocol: Protocol | None = None,
        decode_responses: bool = False,
        command_timeout: float | None = None,
        tcp_keepalive: float | None = 30.0,
        tcp_user_timeout: float | None = 30.0,
    ) -> None:
        check.text("host", host, optional=False)
        if "," in host:
            raise ValueError("host: must be one host, not a list")
        check.whole("port", port, least=1, most=65535)
        check.whole("database", database, least=0, most=_MOST_DATABASES)
        check.text("user", user)
        check.password(password)
        check.one_of("ssl", ssl, get_args(SslMode))
        if host.startswith("/") and ssl != "disable":
            raise ValueError(f"ssl: a Unix socket has no TLS, use disable; ssl is {ssl!r}")
        files = TlsFiles(root_cert=ssl_root_cert, cert=ssl_cert, key=ssl_key)
        files.check(ssl)
        check.one_of("session", session, get_args(Session))
        check.text("client_name", client_name, optional=False)
        if not all("!" <= letter <= "~" for letter in client_name):
            raise ValueError("client_name: must have no spaces and nothing but ASCII")
        if protocol is not None:
            check.whole("protocol", protocol, least=2, most=3)
        check.flag("decode_responses", decode_responses)
        check.seconds("command_timeout", command_timeout)
        check.seconds("tcp_keepalive", tcp_keepalive)
        check.seconds("tcp_user_timeout", tcp_user_timeout)

        self.host, self.port, self.database, self.user = host, port, database, user
        self.session = session
        self._password = password
        self._ssl, self._ssl_files = ssl, files
        self._client_name = client_name
        self._protocol, self._decode_responses = protocol, decode_responses
        self._command_timeout = command_timeout
        self._keepalive, self._user_timeout = tcp_keepalive, tcp_user_timeout
        self._reset_level: ResetLevel = "full"
        self._is_shared = False
        self._secrets = Secrets()
        if isinstance(password, str):
            self._secrets.add(password)

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `redis://user:password@host:port/database?key=value` says.

        `rediss` means TLS, verified in full unless `ssl` says less; `unix://user:password@/path` a Unix
        socket. `valkey` and `valkeys` mean the same as `redis` and `rediss`. The keys are options of this
        class, and redis-py's names for them: `db`, `username`, `socket_timeout`.

        Raises:
            ValueError: not such a URL; the text does not repeat its password.
        """
        parts = check.split(url, cls.schemes)
        scheme = url.partition("://")[0].lower()
        said: dict[str, Any] = {"user": parts.user, "password": parts.password}
        if scheme == "unix":
            if parts.host is not None or parts.port is not None or len(parts.path) < 2:
                raise ValueError("the URL of a Unix socket has an absolute path and no host: unix:///path")
            said["host"] = parts.path
        else:
            said.update(host=parts.host, port=parts.port, database=_number(parts.path.removeprefix("/")))
        options = check.with_query(said, parts.query, _IN_URL, _OTHER_NAMES)
        if scheme in ("rediss", "valkeys") and options.setdefault("ssl", "verify-full") == "disable":
            raise ValueError(f"the URL says {scheme}, which means TLS, and ssl=disable")
        return options

    def configured(self, settings: PoolSettings) -> Self:
        """A copy of this driver whose resets go to the level that `settings` names."""
        bound = copy.copy(self)
        bound._reset_level = settings.reset
        bound._is_shared = settings.max_leases_per_connection > 1
        return bound

    def redact(self, text: str) -> str:
        """`text` with the passwords masked that this driver knows, rotated ones included."""
        return self._secrets.redact(text)

    def __repr__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        return f"<RedisDriver {user}{self._place}/{self.database}>"

    async def connect(self) -> RedisConnection:
        """Open one connection.

        Raises:
            Unfit: the server is a replica and this driver wants to write.
            BadDatabase: there is no database of this number.
            Refused: the server does not do what the configuration asks for.
            redis.AuthenticationError: wrong password, or one that is missing.
            OSError, redis.RedisError: anything else.
        """
        if self._is_local:
            reader, writer = await asyncio.open_unix_connection(self.host)
        else:
            context = None if self._ssl == "disable" else await tls_context(self._ssl, self._ssl_files)
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        options = self._client_options
        wire = Wire(reader, writer, host=self.host, port=self.port, **options)
        # Not given, the protocol is the wire's affair; given, it also decides about the shapes of answers.
        conn = RedisConnection(wire, {**options, "protocol": self._protocol})
        outlive_fork(wire)
        outlive_fork(conn)
        try:
            tune_socket(
                writer.get_extra_info("socket"), keepalive=self._keepalive, user_timeout=self._user_timeout
            )
            self._require_primary(await self._greet(wire))
        except BaseException:
            self.terminate(conn)
            raise
        return conn

    async def ping(self, conn: RedisConnection) -> None:
        """Make a round trip, and see that it is its own answer that comes back.

        With `session="read-write"` the same round trip asks which role the node has.

        Raises:
            Unfit: the node is a replica.
            OSError, redis.RedisError: it is dead, loading its data, or has lost its primary.
        """
        # HELLO tells the role to every user; ROLE and INFO need permission.
        questions = [("PING",), ("HELLO",)] if self._must_write else [("PING",)]
        pong, *greetings = await conn.wire.ask(*questions)
        _require_pong(pong)
        self._require_primary(*greetings)

    async def reset(self, conn: RedisConnection) -> None:
        """End a transaction, and at level `full` bring the session back to what it was after connecting.

        Sends nothing where there is nothing to do.

        Raises:
            OSError, redis.RedisError: it could not be done; terminate it.
        """
        wire = conn.wire
        if wire.is_lost or wire.is_unfinished:
            raise redis.ConnectionError("the connection is lost, or has an answer that nobody has read")
        if self._reset_level == "full" and wire.is_changed_for_good:
            raise redis.ConnectionError("the session was changed in a way that RESET does not mend")
        if self._reset_level == "full":
            conn.put_back()
        if self._reset_level == "full" and wire.is_touched:
            await self._greet(wire, reset=True)
        elif wire.is_unsettled:
            # Without a MULTI, DISCARD is an error, and harmless.
            answers = await wire.ask(("DISCARD",), ("UNWATCH",))
            _raise_if_error(answers[-1])
        wire.forget()

    def remember(self, conn: RedisConnection) -> None:
        """Take the response callbacks as they are for those that a full reset comes back to."""
        conn.remember()

    async def close(self, conn: RedisConnection) -> None:
        """Close it and wait until it is closed; the protocol has no goodbye."""
        conn.connection = None
        await conn.wire.hang_up()

    def terminate(self, conn: RedisConnection) -> None:
        """Cut the connection at once, in whatever state it is, even when its loop is closed."""
        conn.end()

    def is_closed(self, conn: RedisConnection) -> bool:
        """True when the peer has closed, or has sent what nobody has asked for."""
        return conn.wire.is_lost

    def after_lease(self, conn: RedisConnection, error: BaseException | None) -> Verdict:
        """Judge a connection by what was sent and heard on it.

        `error` says nothing that the connection has not noticed itself, and it may come from another server.
        """
        wire = conn.wire
        if wire.is_replica and self._must_write:
            return Verdict.DISCARD_ALL
        # Whoever has the turn after the end of an exclusive lease is a task that outlived it.
        is_in_use = wire.turn.locked()
        if wire.is_lost or ((wire.is_unfinished or is_in_use) and not (is_in_use and self._is_shared)):
            return Verdict.DISCARD
        level = self._reset_level
        if level == "full":
            if wire.is_changed_for_good:
                return Verdict.DISCARD
            is_changed = wire.is_touched or wire.is_unsettled or conn.has_other_callbacks
            return Verdict.RESET if is_changed else _KEEP
        if not wire.is_unsettled:
            return _KEEP
        return Verdict.RESET if level == "rollback" else Verdict.DISCARD

    def is_permanent(self, error: BaseException) -> bool:
        """True for wrong credentials, an unknown database, what the server refuses, TLS that does not hold.

        Not for a full or loading server, a refused connection, or a name that does not resolve; nor
        for wrong credentials where the password is a function, which may know a newer one next time.
        """
        return any(map(self._is_for_ever, chain(error)))

    def _is_for_ever(self, error: BaseException) -> bool:
        if isinstance(error, redis.AuthenticationError):
            return not callable(self._password)
        if isinstance(error, tls.SSLError):
            return not isinstance(error, _TLS_INTERRUPTED)
        return isinstance(error, (Refused, BadTlsFile))

    async def server_version(self, conn: RedisConnection) -> str:
        """What the server says of itself: one request."""
        said = await conn.info("server")
        product = "Valkey" if "valkey_version" in said else "Redis"
        return f"{product} {said.get('valkey_version') or said.get('redis_version')}"

    def filenos(self, conn: RedisConnection) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        wire = conn.wire.transport.get_extra_info("socket")
        fileno = -1 if wire is None else wire.fileno()
        return (fileno,) if fileno >= 0 else ()

    @property
    def _must_write(self) -> bool:
        return self.session == "read-write"

    @property
    def _is_local(self) -> bool:
        return self.host.startswith("/")

    @property
    def _place(self) -> str:
        return self.host if self._is_local else f"{self.host}:{self.port}"

    @property
    def _client_options(self) -> dict[str, Any]:
        return {
            "db": self.database,
            "decode_responses": self._decode_responses,
            "protocol": 3 if self._protocol is None else self._protocol,
            "socket_timeout": self._command_timeout,
        }

    async def _greet(self, wire: Wire, *, reset: bool = False) -> Any:
        """Log in, choose protocol, name and database, all in one round trip; return what HELLO says.

        redis-py's own greeting would take three, and could not be said again after a RESET, which logs out
        and goes back to version 2 of the protocol.
        """
        hello: list[Any] = ["HELLO", wire.protocol]
        if self.user is not None or self._password is not None:
            password = "" if self._password is None else await ask(self._password, self._secrets)
            hello += ["AUTH", self.user or _ANYBODY, password]
        words: dict[str, tuple[Any, ...]] = {"reset": ("RESET",)} if reset else {}
        words["hello"] = (*hello, "SETNAME", self._client_name)
        if self.database:  # 0 is where a session begins, and not everybody may say SELECT
            words["select"] = ("SELECT", self.database)
        words["ping"] = ("PING",)
        answers = dict(zip(words, await wire.ask(*words.values()), strict=False))
        # The first error is the reason, and the others follow from it.
        for word, answer in answers.items():
            if word == "ping":
                _require_pong(answer)
            elif isinstance(answer, ResponseError):
                # A server that does not know HELLO repeats it, with the password.
                text = self.redact(f"{word.upper()} is refused: {answer}")
                raise BadDatabase(text) if word == "select" else Refused(text)
            else:
                _raise_if_error(answer)
        wire.forget()
        return answers["hello"]

    def _require_primary(self, greeting: Any = None) -> None:
        _raise_if_error(greeting)
        if self._must_write and _role(greeting) == b"replica":
            raise Unfit(
                f"the server at {self._place} is a replica, and this pool is for a primary; "
                "for a replica, set session to 'any'"
            )


def _require_pong(answer: Any) -> None:
    # Whoever may not say PING gets an answer all the same.
    if isinstance(answer, NoPermissionError):
        return
    _raise_if_error(answer)
    if answer != b"PONG":
        raise redis.ConnectionError("the server's answer belongs to another question")


def _raise_if_error(answer: Any) -> None:
    if isinstance(answer, Exception):
        raise answer


def _role(greeting: Any) -> Any:
    """What HELLO says of the node's role: a mapping, or with version 2 of the protocol a list of pairs."""
    if isinstance(greeting, list):
        greeting = dict(zip(greeting[::2], greeting[1::2], strict=False))
    return greeting.get(b"role") if isinstance(greeting, dict) else None


def _number(path: str) -> int | None:
    if not path:
        return None
    if not (path.isascii() and path.isdigit()):
        raise ValueError(
            "the URL's path is not the number of a database (is a / in the password not quoted?)"
        )
    return int(path)


_OTHER_NAMES: Final[Mapping[str, str]] = {
    "db": "database",
    "username": "user",
    "socket_timeout": "command_timeout",
}

_IN_URL: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("user", "password", "client_name", "session"), str),
    **dict.fromkeys(("ssl", "ssl_root_cert", "ssl_cert", "ssl_key"), str),
    **dict.fromkeys(("database", "protocol"), int),
    **dict.fromkeys(("command_timeout", "tcp_keepalive", "tcp_user_timeout"), float),
    "decode_responses": check.truth,
}
