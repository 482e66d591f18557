"""RabbitMQ on aio-pika. A lease gives a channel, with publisher confirms; channels share connections.

A pool of this driver lends channels (`aio_pika.Channel`), and each belongs to one borrower at a time. The
driver opens connections as the channels need them, `channels_per_connection` on each, and closes a connection
with its last channel. In a configuration file and in a URL's options sizes count connections: `max_size` 5
means up to 5 connections and so up to 250 channels, `min_size` 2 means two channels kept, on two connections.
`PoolSettings` given in code, a pool's status and its metrics count what a pool lends: channels.

What a reset covers, by the pool's `reset` level:

    none      Nothing is sent. A channel that comes back with a consumer, with deliveries that are not
              acknowledged, in transaction mode or with an exclusive queue is discarded.
    rollback  After such a lease another channel takes its place, under the same object: the transaction is
              rolled back, the deliveries go back to their queues, the consumers and the exclusive queues
              are gone. Prefetch, callbacks and confirms that the borrower asked for stay.
    full      That, and the same after a lease that set a prefetch (`set_qos`), asked for confirms that the
              pool did not want, or left a callback for returned messages or for the channel's end. After
              any other lease nothing is sent.

What a pool's `on_connect` sets on a channel, a prefetch for instance, goes with the first full reset too.

Publishing, declaring, binding, purging, and getting messages that were acknowledged leave a channel as it
was; the channel reads along what is sent. `channel.flow` is not among what a borrower can change: RabbitMQ
refuses it, and closes the connection.

A word that calls for no answer (an acknowledgement, a publish without confirms) has one when it is wrong: the
server closes the channel. So that this is not the next borrower's error, a lease that ended on such a word is
followed by one round trip, at every level but `none`.

An exclusive queue belongs to the connection. While its borrower has it, the other channels of that
connection can reach it by its name; no later borrower can. Where it cannot be deleted (its channel is
discarded, or nobody has heard its name) the connection is retired: it takes no further lease, and ends with
the last that it has. Whoever wants to share with nobody at all sets `channels_per_connection` to 1.

At every level a channel is discarded when it is closed, when a call on it has no answer yet, and when a
published message has no confirm yet: a publish that was cancelled may have arrived or not, and its confirm
would come while the next borrower has the channel. RabbitMQ then closes that channel; the others on its
connection go on. The same holds after an error that closes a channel (404, 406, 403): the channel is gone,
the connection is not.

An alarm of the server (memory, disk) blocks connections that publish, without an error: `publish` needs a
timeout. One pool for publishing and another for consuming keeps consumers out of that.
"""

import asyncio
import copy
import ssl as tls
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from millpond.driver import Verdict
from millpond.drivers import _options as check
from millpond.drivers._rabbitmq_berths import Berths, Harbour
from millpond.drivers._shared import Password, Secrets, ask, chain, outlive_fork
from millpond.drivers._tls import BadTlsFile, TlsFiles, tls_context
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings, ResetLevel

try:
    import aiormq
    from yarl import URL

    from millpond.drivers._rabbitmq_wire import Line, Plug, RabbitMQChannel, Refused
except ModuleNotFoundError as _missing:
    raise MissingExtra("rabbitmq", needed_for="RabbitMQ", module="aio-pika") from _missing

__all__ = ["RabbitMQChannel", "RabbitMQDriver", "Refused", "TlsMode"]

TlsMode: TypeAlias = Literal["disable", "require", "verify-ca", "verify-full"]

_KEEP: Final = Verdict.KEEP  # asked for at every lease: an attribute of an enum class costs more
_PORTS: Final = (5672, 5671)  # plain, TLS
_MOST_CHANNELS: Final = 65535
_MOST_HEARTBEAT: Final = 65534
_GOODBYE_S: Final = 1.0
"""How long (seconds) the server may take to agree to an end, before the connection is cut."""
_TLS_INTERRUPTED: Final = (tls.SSLEOFError, tls.SSLZeroReturnError, tls.SSLSyscallError, tls.SSLWantReadError)


class _Mooring:
    """One connection of a pool's: opened once, whoever of its channels needs it first."""

    def __init__(self) -> None:
        self.opening: asyncio.Task[Line] | None = None
        self.plug: Plug | None = None

    @property
    def line(self) -> Line | None:
        """The connection; None before it is open."""
        task = self.opening
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    @property
    def is_lost(self) -> bool:
        """It was open, and is not any more."""
        return self.line is not None and self.line.is_lost

    def cut(self) -> None:
        """Cut it at once; never waits, never raises."""
        if self.plug is not None:
            self.plug.cut()


_Ship: TypeAlias = Berths[_Mooring]


class RabbitMQDriver:
    """This opens channels to one RabbitMQ server, on connections that it shares among them.

    Args:
        host: name or address.
        port: TCP port; None: 5672, and 5671 with TLS.
        vhost: the virtual host.
        user: who logs in.
        password: with what; a function, sync or async, is asked at each new connection.
        ssl: `disable`, `require` (encrypted, whoever it is), `verify-ca`, `verify-full`.
        ssl_root_cert: file of the authorities that are trusted; None: the system's.
        ssl_cert: file of the client's certificate.
        ssl_key: file of its key; None: it is in `ssl_cert`.
        connection_name: what the server lists the connections as.
        channels_per_connection: channels on one connection, 1 to 65535, and at most three quarters of what
            the server allows (2047 by default). A channel too many would cost the whole connection.
        publisher_confirms: `publish` waits until the server has the message; transactions need this off.
        heartbeat: seconds between signs of life, 0 to 65534; 0: none. A silent server is given up after
            three times this and three seconds, unless a ping finds out before.
        tcp_keepalive: seconds of silence before the kernel asks for the peer; None: it never does.
        tcp_user_timeout: seconds that sent bytes may stay unacknowledged before the kernel gives the
            connection up (Linux); None: the kernel's own limit, a quarter of an hour and more.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
    """

    kind: ClassVar[str] = "rabbitmq"
    schemes: ClassVar[tuple[str, ...]] = ("amqp", "amqps")
    extra: ClassVar[str] = "rabbitmq"
    default_sizes: ClassVar[tuple[int, int]] = (1, 5)
    places_option: ClassVar[str] = "channels_per_connection"
    secret_options: ClassVar[frozenset[str]] = frozenset({"password"})

    name: str = "rabbitmq"

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int | None = None,
        vhost: str = "/",
        user: str = "guest",
        password: Password = "guest",  # noqa: S107 - what RabbitMQ comes with, for clients on its own machine
        ssl: TlsMode = "disable",
        ssl_root_cert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        connection_name: str = "millpond",
        channels_per_connection: int = 50,
        publisher_confirms: bool = True,
        heartbeat: int = 60,
        tcp_keepalive: float | None = 30.0,
        tcp_user_timeout: float | None = 30.0,
    ) -> None:
        check.text("host", host, optional=False)
        if "," in host:
            raise ValueError("host: must be one host, not a list")
        if port is not None:
            check.whole("port", port, least=1, most=65535)
        check.text("vhost", vhost, optional=False)
        check.text("user", user, optional=False)
        check.password(password)
        if not password:
            raise ValueError("password: must not be empty: the server takes no empty one")
        check.one_of("ssl", ssl, get_args(TlsMode))
        files = TlsFiles(root_cert=ssl_root_cert, cert=ssl_cert, key=ssl_key)
        files.check(ssl)
        check.text("connection_name", connection_name, optional=False)
        check.whole("channels_per_connection", channels_per_connection, least=1, most=_MOST_CHANNELS)
        check.flag("publisher_confirms", publisher_confirms)
        check.whole("heartbeat", heartbeat, least=0, most=_MOST_HEARTBEAT)
        check.seconds("tcp_keepalive", tcp_keepalive)
        check.seconds("tcp_user_timeout", tcp_user_timeout)

        self.host, self.vhost, self.user = host, vhost, user
        self.port = port if port is not None else _PORTS[ssl != "disable"]
        self.channels_per_connection = channels_per_connection
        self.publisher_confirms = publisher_confirms
        self._password = password
        self._ssl, self._ssl_files = ssl, files
        self._connection_name = connection_name
        self._heartbeat = heartbeat
        self._keepalive, self._user_timeout = tcp_keepalive, tcp_user_timeout
        self._reset_level: ResetLevel = "full"
        self._secrets = Secrets()
        if isinstance(password, str):
            self._secrets.add(password)
        self._harbour: Harbour[_Mooring] = Harbour()
        self._berths: dict[RabbitMQChannel, _Ship] = {}
        self._endings: set[asyncio.Task[Any]] = set()

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `amqp://user:password@host:port/vhost?key=value` says.

        `amqps` means TLS, verified in full unless `ssl` says less. Without a path, or with `/` alone, the
        virtual host is `/`; in any other path everything after the first slash is its name. The keys are
        options of this class, and aio-pika's names for them: `name`, `login`, `virtualhost`.

        Raises:
            ValueError: not such a URL; the text does not repeat its password.
        """
        parts = check.split(url, cls.schemes)
        said: dict[str, Any] = {
            "user": parts.user,
            "password": parts.password,
            "host": parts.host,
            "port": parts.port,
            "vhost": parts.path.removeprefix("/") or None,
        }
        options = check.with_query(said, parts.query, _IN_URL, _OTHER_NAMES)
        if url.lower().startswith("amqps:") and options.setdefault("ssl", "verify-full") == "disable":
            raise ValueError("the URL says amqps, which means TLS, and ssl=disable")
        return options

    def configured(self, settings: PoolSettings) -> Self:
        """A copy of this driver with connections of its own, whose resets go to the level of `settings`."""
        bound = copy.copy(self)
        bound._reset_level = settings.reset
        bound._harbour = Harbour(least=max(1, settings.min_size))
        bound._berths, bound._endings = {}, set()
        return bound

    def redact(self, text: str) -> str:
        """`text` with the passwords masked that this driver knows, rotated ones included."""
        return self._secrets.redact(text)

    def __repr__(self) -> str:
        return f"<RabbitMQDriver {self.user}@{self.host}:{self.port}, virtual host {self.vhost!r}>"

    @property
    def connections(self) -> int:
        """How many connections are open or opening, those that take no more channels included."""
        # From the channels, because a condemned connection lives as long as its last one.
        carrying = {id(each) for each in self._berths.values()}
        return len(carrying | {id(each) for each in self._harbour.lines})

    async def connect(self) -> RabbitMQChannel:
        """Open one channel, and a connection for it where there is none with room.

        Raises:
            Refused: there is no such virtual host, or not for this user.
            aiormq.exceptions.AMQPError: wrong credentials, or anything else that the server says.
            OSError: nobody is there.
        """
        for ship in [each for each in self._harbour.lines if each.line.is_lost]:
            self._harbour.strike(ship)
        ship = self._harbour.board(lambda: Berths(_Mooring(), self.channels_per_connection))
        channel: RabbitMQChannel | None = None
        try:
            line = await self._opened(ship)
            channel = RabbitMQChannel(line, publisher_confirms=self.publisher_confirms)
            await channel.initialize()
        except BaseException as error:
            if ship.line.line is None:
                self._harbour.strike(ship)  # whoever comes next tries another one
            elif isinstance(error, asyncio.CancelledError):
                ship.is_condemned = True  # it may not answer at all; if it does, it lives until its last one
            self._harbour.depart(ship)
            if self._harbour.leave(ship):
                self._close_later(ship)
            raise
        self._berths[channel] = ship
        outlive_fork(channel)
        return channel

    async def _opened(self, ship: _Ship) -> Line:
        mooring = ship.line
        if mooring.opening is None:
            mooring.opening = asyncio.create_task(self._open(ship), name="millpond rabbitmq: connect")
            mooring.opening.add_done_callback(_heard)
        # Others may wait for it too.
        return await asyncio.shield(mooring.opening)

    async def _open(self, ship: _Ship) -> Line:
        context = None if self._ssl == "disable" else await tls_context(self._ssl, self._ssl_files)
        password = await ask(self._password, self._secrets)
        plug = Plug(context, keepalive=self._keepalive, user_timeout=self._user_timeout)
        ship.line.plug = plug
        scheme = "amqp" if context is None else "amqps"
        line = Line(
            URL.build(scheme=scheme, host=self.host, port=self.port),
            user=self.user,
            password=password,
            vhost=self.vhost,
            plug=plug,
            name=self._connection_name,
            heartbeat=self._heartbeat,
        )
        outlive_fork(line)
        try:
            await line.connect()
        except BaseException:
            plug.cut()
            raise
        # Channels that are being closed count at the server, and not here.
        ship.capacity = min(ship.capacity, max(1, line.wire.most_channels * 3 // 4))
        return line

    async def ping(self, conn: RabbitMQChannel) -> None:
        """Make a round trip on the channel: `channel.flow` with what is in force already.

        Raises:
            OSError, aiormq.exceptions.AMQPError: the channel or its connection is gone.
        """
        lane = conn.lane
        if lane is None or conn.is_lost:
            raise ConnectionResetError("the channel is closed")
        conn.is_unanswered = True
        await lane.flow(True)
        conn.is_unanswered = False

    async def reset(self, conn: RabbitMQChannel) -> None:
        """Put a fresh channel in the place of one that is not as it was; see the module for the levels.

        Sends nothing where there is nothing to do.

        Raises:
            OSError, aiormq.exceptions.AMQPError: it could not be done; terminate it.
        """
        lane = conn.lane
        if lane is None or conn.is_lost:
            raise ConnectionResetError("the channel is closed")
        if conn.is_unsettled or (self._reset_level == "full" and conn.is_touched):
            conn.is_unanswered = True
            await conn.renew()
            conn.is_unanswered = False
        elif lane.is_unheard:
            await self.ping(conn)

    async def close(self, conn: RabbitMQChannel) -> None:
        """Close the channel, and its connection with its last channel."""
        conn.is_unanswered = True
        if not conn.line.is_lost:
            await conn.hang_up()
        conn.is_unanswered = False
        if self._let_go(conn) is not None:
            await self._close_line(conn.line)

    def terminate(self, conn: RabbitMQChannel) -> None:
        """Close the channel, without waiting for the server; cut its connection when that was the last.

        A task asks the server to close the channel, for others live on the same connection.
        """
        if conn.is_ended:
            return
        line, is_dumb = conn.line, conn.is_unanswered
        ship = self._berths.get(conn)
        if ship is not None and is_dumb:
            ship.is_condemned = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is not line.loop:
            # The loop of its connection is gone, and so is whatever else it carried.
            self._let_go(conn)
            line.cut()
            return
        if line.is_lost:
            if self._let_go(conn) is not None:
                self._end_later(self._close_line(line))
            return
        self._depart(conn)
        self._end_later(self._hang_up(conn))

    async def _hang_up(self, conn: RabbitMQChannel) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await conn.hang_up()
        except TimeoutError:
            ship = self._berths.get(conn)
            if ship is not None:
                ship.is_condemned = True
        finally:
            if self._let_go(conn) is not None:
                await self._close_line(conn.line)

    async def _close_line(self, line: Line) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await line.close()
        except TimeoutError:
            pass
        finally:
            line.cut()
        await line.ended()

    def _close_later(self, ship: _Ship) -> None:
        """Close a connection on which no channel was opened."""
        mooring = ship.line
        if mooring.opening is not None and not mooring.opening.done():
            mooring.cut()
            mooring.opening.cancel()
            self._endings.add(mooring.opening)
            mooring.opening.add_done_callback(self._endings.discard)
        elif mooring.line is not None:
            self._end_later(self._close_line(mooring.line))

    def _end_later(self, ending: Any) -> None:
        task = asyncio.create_task(ending, name="millpond rabbitmq: hang up")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        task.add_done_callback(_heard)

    def _depart(self, conn: RabbitMQChannel) -> None:
        ship = self._berths.get(conn)
        if ship is not None and not conn.is_ended:
            self._harbour.depart(ship)
            if conn.has_claims:
                # They live as long as the connection does, and nobody will delete them any more.
                ship.is_condemned = conn.line.is_retired = True
        conn.is_ended = True

    def _let_go(self, conn: RabbitMQChannel) -> _Ship | None:
        """The channel is closed; its connection's berths, if it was the last of them."""
        self._depart(conn)
        ship = self._berths.pop(conn, None)
        return ship if ship is not None and self._harbour.leave(ship) else None

    def endings(self) -> Collection[asyncio.Task[Any]]:
        """The channels and connections that are being hung up."""
        return tuple(self._endings)

    def is_closed(self, conn: RabbitMQChannel) -> bool:
        """True when the server or the borrower has closed the channel or its connection."""
        return conn.is_lost

    def after_lease(self, conn: RabbitMQChannel, error: BaseException | None) -> Verdict:
        """Judge a channel by what was sent and heard on it; `error` says nothing that it does not know."""
        lane = conn.lane
        if lane is None or conn.is_lost or lane.is_unfinished:
            return Verdict.DISCARD
        level = self._reset_level
        if level == "none":
            return Verdict.DISCARD if conn.is_unsettled else _KEEP
        is_changed = conn.is_unsettled if level == "rollback" else conn.is_touched
        return Verdict.RESET if is_changed or lane.is_unheard else _KEEP

    def is_permanent(self, error: BaseException) -> bool:
        """True for wrong credentials, a virtual host that is not there or not for this user, TLS that fails.

        Not for a limit of connections that is reached, a virtual host that is down, a refused connection; nor
        for wrong credentials where the password is a function, which may know a newer one next time.
        """
        return any(map(self._is_for_ever, chain(error)))

    def _is_for_ever(self, error: BaseException) -> bool:
        if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
            return not callable(self._password)
        if isinstance(error, tls.SSLError):
            return not isinstance(error, _TLS_INTERRUPTED)
        return isinstance(error, (aiormq.exceptions.AuthenticationError, Refused, BadTlsFile))

    async def server_version(self, conn: RabbitMQChannel) -> str:
        """What the server called itself when the connection was opened; no I/O."""
        said = conn.line.wire.server_properties
        return " ".join(_text(said.get(key, b"")) for key in ("product", "version")).strip()

    def key_of(self, error: BaseException) -> str | None:
        """The option that an error is about, where it is one."""
        for each in chain(error):
            if isinstance(each, aiormq.exceptions.ProbableAuthenticationError):
                return "password"
            if isinstance(each, Refused):
                return "vhost"
            if isinstance(each, tls.SSLError):
                return "ssl"
        return None

    def filenos(self, conn: RabbitMQChannel) -> tuple[int, ...]:
        """The descriptor of its connection's socket, named by one of the channels on it; else empty."""
        ship = self._berths.get(conn)
        first = next((each for each, its in self._berths.items() if its is ship and not each.is_ended), None)
        if conn is not first:
            return ()
        fileno = conn.line.plug.fileno
        return (fileno,) if fileno >= 0 else ()


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _heard(task: asyncio.Task[Any]) -> None:
    """Nobody else may be there to ask what became of it."""
    if not task.cancelled():
        task.exception()


_OTHER_NAMES: Final[Mapping[str, str]] = {
    "name": "connection_name",
    "login": "user",
    "virtualhost": "vhost",
}

_IN_URL: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("user", "password", "vhost", "connection_name"), str),
    **dict.fromkeys(("ssl", "ssl_root_cert", "ssl_cert", "ssl_key"), str),
    **dict.fromkeys(("channels_per_connection", "heartbeat"), int),
    **dict.fromkeys(("tcp_keepalive", "tcp_user_timeout"), float),
    "publisher_confirms": check.truth,
}
