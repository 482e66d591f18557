"""gRPC channels, on grpcio's asyncio part. A lease shares a channel; calls on it run side by side.

A channel is one HTTP/2 connection here, and carries many calls at once, up to
the server's limit of streams; calls above that limit queue out of sight or are
refused. So the pool lends a channel to as many borrowers as
`max_leases_per_connection` says, which has to stay below the server's limit
divided by the calls that one borrower makes at once, with some room: the server
forgets a call a moment after its answer or its cancellation, and refuses what is
above its limit.

gRPC does not support a fork once a channel was made: the child may hang. Fork
first, as servers with several workers do, and open channels in the children.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import re
from collections.abc import Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias
from weakref import WeakSet

from millpond.driver import Verdict
from millpond.drivers import _options as check
from millpond.drivers._shared import Unfit, chain
from millpond.drivers._tls import BadTlsFile, TlsFiles
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings

try:
    import grpc
    from grpc import aio
except ImportError as _missing:
    raise MissingExtra("grpc", needed_for="gRPC", module="grpcio") from _missing

TlsMode: TypeAlias = Literal["disable", "verify-full"]

_CHECK: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = 1
# The transport works, whatever the server thinks of the question. Also when it has no room for it: a new
# channel would not give it more.
_ALIVE: Final = frozenset({
    grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
})  # fmt: skip
_UNTRUSTED: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|[Hh]ostname [Vv]erification|Peer name .* is not in"
)
_GOODBYE_S: Final = 1.0
"""How long (seconds) calls under way may take when a channel is closed politely, or is lost."""
_PATIENCE_S: Final = 5.0
"""How long (seconds) the answer of a suspected server may take, until a pool says what it thinks of it."""


class GrpcDriver:
    """This opens channels to one gRPC server.

    Args:
        host: name or address, or the path of a Unix socket (begins with `/`).
        port: TCP port.
        ssl: `disable` (plain HTTP/2) or `verify-full`.
        ssl_root_cert: file of the authorities that are trusted; None: gRPC's own list.
        ssl_cert: file of the client's certificate.
        ssl_key: file of its key.
        ssl_server_name: the name that the server's certificate must have; None: `host`.
        health_service: what the server's health service is asked about; the empty text: the
            server as a whole. A server without a health service is alive when it says so.
        keepalive_time: seconds of silence before an HTTP/2 ping; None: none are sent. Many
            servers hang up on clients that ping more often than they allow (5 minutes by default).
        keepalive_timeout: seconds that the answer to such a ping may take.
        options: more channel arguments of gRPC, by name; `grpc.service_config`, for instance, whose
            retry policy may repeat calls that are safe to repeat.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
    """

    kind: ClassVar[str] = "grpc"
    schemes: ClassVar[tuple[str, ...]] = ("grpc", "grpcs")
    extra: ClassVar[str] = "grpc"
    default_sizes: ClassVar[tuple[int, int]] = (1, 4)
    default_leases: ClassVar[int] = 80
    secret_options: ClassVar[frozenset[str]] = frozenset()

    name: str = "grpc"

    def __init__(
        self,
        *,
        host: str = "localhost",
        port: int = 50051,
        ssl: TlsMode = "disable",
        ssl_root_cert: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        ssl_server_name: str | None = None,
        health_service: str = "",
        keepalive_time: float | None = None,
        keepalive_timeout: float = 20.0,
        options: Mapping[str, str | int] | None = None,
    ) -> None:
        check.text("host", host, optional=False)
        check.whole("port", port, least=1, most=65535)
        check.one_of("ssl", ssl, ("disable", "verify-full"))
        files = TlsFiles(root_cert=ssl_root_cert, cert=ssl_cert, key=ssl_key)
        files.check(ssl)
        check.text("ssl_server_name", ssl_server_name)
        if ssl_server_name is not None and ssl == "disable":
            raise ValueError("ssl_server_name: is used only with ssl verify-full, ssl is 'disable'")
        if not isinstance(health_service, str):
            raise ValueError(f"health_service: must be a text, got {type(health_service).__name__}")
        check.seconds("keepalive_time", keepalive_time)
        check.seconds("keepalive_timeout", keepalive_timeout, optional=False)
        more = check.mapping("options", options, of=(str, int))
        self.host, self.port, self.health_service = host, port, health_service
        self._ssl, self._ssl_files = ssl, files
        self._question = _asked(health_service)
        # Without it, channels to one target share one connection, whatever their number.
        arguments: dict[str, str | int] = {"grpc.use_local_subchannel_pool": 1}
        if keepalive_time is not None:
            arguments["grpc.keepalive_time_ms"] = round(keepalive_time * 1000)
            arguments["grpc.keepalive_timeout_ms"] = round(keepalive_timeout * 1000)
        if ssl_server_name is not None:
            arguments["grpc.ssl_target_name_override"] = ssl_server_name
        self._arguments = tuple({**arguments, **more}.items())
        self._endings: set[asyncio.Task[None]] = set()
        self._terminated: WeakSet[aio.Channel] = WeakSet()
        self._suspected: WeakSet[aio.Channel] = WeakSet()  # being asked after
        self._silent: WeakSet[aio.Channel] = WeakSet()  # did not answer
        self._patience_s = _PATIENCE_S

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `grpc://host:port?key=value` says; `grpcs` means `ssl` `verify-full`.

        Raises:
            ValueError: not such a URL.
        """
        parts = check.split(url, cls.schemes)
        if parts.user is not None or parts.password is not None:
            raise ValueError("a gRPC URL has no user and no password: credentials belong to calls")
        if parts.path not in ("", "/"):
            raise ValueError("a gRPC URL has no path; health_service=... names a service")
        said = {"host": parts.host, "port": parts.port}
        options = {name: value for name, value in said.items() if value is not None}
        if url.lower().startswith("grpcs:"):
            options["ssl"] = "verify-full"
        asked = check.from_query(parts.query, _IN_URL, {})
        for name in asked:
            if name in options:
                raise ValueError(f"the URL names {name} twice")
        return {**options, **asked}

    def __repr__(self) -> str:
        return f"<GrpcDriver {self.target}>"

    def configured(self, settings: PoolSettings) -> Self:
        """A copy of this driver that asks after suspected channels for `health_check_timeout`."""
        bound = copy.copy(self)
        bound._patience_s = settings.health_check_timeout
        return bound

    @property
    def target(self) -> str:
        """The address as gRPC spells it."""
        if self.host.startswith("/"):
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"dns:///{host}:{self.port}"

    async def connect(self) -> aio.Channel:
        """Open a channel, and have the server answer on it.

        Raises:
            ConnectionError: nobody answers, or not as a gRPC server does.
            Unfit: the server's health service says that it does not serve.
        """
        if self._ssl == "disable":
            channel = aio.insecure_channel(self.target, options=self._arguments)
        else:
            credentials = await asyncio.to_thread(self._credentials)
            channel = aio.secure_channel(self.target, credentials, options=self._arguments)
        try:
            await self.ping(channel)
        except BaseException as error:
            self.terminate(channel)
            del channel
            # gRPC hangs up when nobody has the channel or one of its calls any more, and whoever keeps an
            # error keeps what the frames have that it came through.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            raise
        return channel

    def _credentials(self) -> grpc.ChannelCredentials:
        files = self._ssl_files
        read = {
            option: _content(option, path)
            for option, path in (
                ("ssl_root_cert", files.root_cert),
                ("ssl_cert", files.cert),
                ("ssl_key", files.key or files.cert),
            )
        }
        return grpc.ssl_channel_credentials(
            root_certificates=read["ssl_root_cert"],
            private_key=read["ssl_key"],
            certificate_chain=read["ssl_cert"],
        )

    async def ping(self, conn: aio.Channel) -> None:
        """Ask the server's health service (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).

        Raises:
            Unfit: the service is not known there, or not serving.
            ConnectionError: nobody answers.
        """
        ask: Any = conn.unary_unary(_CHECK)  # without coders it takes and gives bytes
        try:
            answer: bytes = await ask(self._question)
        except aio.AioRpcError as error:
            if error.code() in _ALIVE:
                return
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise Unfit(f"the server does not know the service {self.health_service!r}") from None
            raise _failed(error) from None
        except aio.UsageError as error:
            raise ConnectionResetError("the channel is closed") from error
        if _status(answer) != _SERVING:
            raise Unfit(f"the service {self.health_service!r} is not serving")

    async def reset(self, conn: aio.Channel) -> None:
        """Nothing: calls leave nothing behind on a channel."""

    async def close(self, conn: aio.Channel) -> None:
        """Let calls that are under way finish for a second, then hang up."""
        await conn.close(_GOODBYE_S)

    def terminate(self, conn: aio.Channel) -> None:
        """Cancel what is under way and hang up; in a task, for gRPC has no other way.

        Calls on a channel that has lost its server fail by themselves, and are left to do so: gRPC would
        end them by a `CancelledError` in borrowers' tasks that nobody has cancelled.
        """
        grace = _GOODBYE_S if _state(conn) is grpc.ChannelConnectivity.TRANSIENT_FAILURE else None
        self._terminated.add(conn)
        self._go_on(_ended(conn, grace))

    def endings(self) -> Collection[asyncio.Task[Any]]:
        """The channels that are being hung up, or asked after."""
        return tuple(self._endings)

    def is_closed(self, conn: aio.Channel) -> bool:
        """True when it is shut down, or has lost its server and not found it again."""
        return conn in self._terminated or _state(conn) in (
            grpc.ChannelConnectivity.SHUTDOWN, grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        )  # fmt: skip

    def after_lease(self, conn: aio.Channel, error: BaseException | None) -> Verdict:
        """Keep it, unless it is gone: a call that was cancelled or refused leaves nothing behind.

        After a lease that ran out of time or was cancelled the server is asked, in a task, whether it
        still answers on this channel. Nobody else would find out: a channel that is always in use is
        never pinged, and a network that loses every packet reports no error. When no answer comes, the
        next lease to end says so, and nobody gets this channel any more.
        """
        if self.is_closed(conn) or conn in self._silent:
            return Verdict.DISCARD
        if conn not in self._suspected and _is_out_of_time(error):
            self._suspected.add(conn)
            self._go_on(self._ask_after(conn))
        return Verdict.KEEP

    async def _ask_after(self, conn: aio.Channel) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self.ping(conn)
        except (OSError, Unfit):  # a TimeoutError is an OSError
            self._silent.add(conn)
        finally:
            self._suspected.discard(conn)

    def _go_on(self, ending: Coroutine[Any, Any, None]) -> None:
        try:
            task = asyncio.get_running_loop().create_task(ending, name="millpond grpc")
        except RuntimeError:
            ending.close()
            return  # no loop runs any more; the channel goes with its object
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def is_permanent(self, error: BaseException) -> bool:
        """True when the server's certificate is not trusted, or a file for TLS cannot be used."""
        return any(isinstance(each, BadTlsFile | Untrusted) for each in chain(error))


class Untrusted(ConnectionError):
    """The server's certificate does not hold."""


_IN_URL: Final = {
    "host": str, "port": int, "ssl": str, "ssl_root_cert": str, "ssl_cert": str, "ssl_key": str,
    "ssl_server_name": str, "health_service": str, "keepalive_time": float, "keepalive_timeout": float,
}  # fmt: skip


def _content(option: str, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise BadTlsFile(f"{option}: cannot use {path!r}: {error}") from error


def _asked(service: str) -> bytes:
    """`HealthCheckRequest(service=...)` in protobuf's encoding: field 1, a length, a text."""
    text = service.encode()
    return b"\x0a" + _varint(len(text)) + text if text else b""


def _varint(number: int) -> bytes:
    coded = bytearray()
    while number > 0x7F:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*coded, number])


def _status(answer: bytes) -> int:
    """Field 1 of a `HealthCheckResponse`, an enum below 128; 0 (unknown) when it is not there."""
    return answer[1] if len(answer) >= 2 and answer[0] == 0x08 else 0


def _failed(error: aio.AioRpcError) -> ConnectionError:
    code = error.code().name.lower().replace("_", " ")
    words = f"{code}: {error.details() or 'no details'}"
    return Untrusted(words) if _UNTRUSTED.search(words) else ConnectionError(words)


def _is_out_of_time(error: BaseException | None) -> bool:
    if isinstance(error, aio.AioRpcError):
        return bool(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
    return isinstance(error, TimeoutError | asyncio.CancelledError)


def _state(channel: aio.Channel) -> grpc.ChannelConnectivity:
    try:
        return channel.get_state()
    except aio.UsageError:
        return grpc.ChannelConnectivity.SHUTDOWN


async def _ended(channel: aio.Channel, grace: float | None) -> None:
    with contextlib.suppress(Exception):
        await channel.close(grace)
