"""A redis-py client on exactly one connection, and that connection.

redis-py's own clients take their connections from a pool: each pipeline and each subscription a further
one, and a connection that is lost is opened again without a word. Here there is one connection for all of
them, it is never opened again, and it knows what has become of its session.
"""

import asyncio
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, Final

import redis.asyncio
from redis.asyncio.client import Monitor, Pipeline, PubSub
from redis.asyncio.connection import AbstractConnection
from redis.client import CaseInsensitiveDict
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError

from millpond.drivers._redis_words import HARMLESS, LASTING, UNENDING, is_harmless, spoken
from millpond.drivers._shared import cut

try:
    from redis.himport import HImportRegistry
except ModuleNotFoundError:  # before redis-py 8.1
    HImportRegistry = None  # type: ignore[assignment, misc]

# The driver greets the server itself, so nobody asks for the library's version; redis-py would look for it in
# the package's files at each connect, a millisecond in which the loop stands still.
_UNASKED: Final[dict[str, Any]] = (
    {"driver_info": None} if "driver_info" in signature(AbstractConnection.__init__).parameters else {}
)
_REPLICAS_ONLY: Final = (ReadOnlyError, MasterDownError)  # what no primary says


class Packed(list[bytes]):
    """Commands as they go over the wire, and how many answers they call for."""

    commands = 1


class Wire(AbstractConnection):
    """One connection to the server, opened once, that keeps count of questions and answers.

    Attributes:
        transport: what asyncio writes to; kept beyond the end, so that it can be cut even then.
        turn: held by whoever sends and waits for the answer.
        is_touched: the session may differ from what it was after connecting.
        is_changed_for_good: the session differs, and RESET would not mend it.
        is_unending: answers can no longer be told apart.
        is_taken: a subscription or monitor reads from it.
        is_replica: the server refused something because it is no primary.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        host: str,
        port: int,
        **options: Any,
    ) -> None:
        super().__init__(**{**_UNASKED, **options})
        self.host, self.port = host, port
        self.transport = writer.transport
        self.turn = asyncio.Lock()
        self.is_touched = self.is_changed_for_good = False
        self.is_unending = self.is_taken = self.is_replica = False
        self._is_ours = False
        # Where a transaction stands, by the words sent, and whether an error has put that in doubt.
        self._in_multi = self._is_watching = self._is_in_doubt = False
        self._packed = self._asked = self._answered = 0
        self._last_transaction_word = 0  # in `_packed`, `_asked` and `_answered` all commands count from 1
        self._reader, self._writer = reader, writer
        self._parser.on_connect(self)  # type: ignore[no-untyped-call]

    @property
    def is_lost(self) -> bool:
        """The connection is gone, or bytes have come that nobody has asked for."""
        reader = self._reader
        # A peer that hangs up ends the reader's buffer, one that resets leaves an exception.
        return (
            reader is None
            or reader.at_eof()
            or (not self.turn.locked() and self.has_unread)
            or reader.exception() is not None
        )

    @property
    def has_unread(self) -> bool:
        """Bytes have arrived that nobody has read."""
        # asyncio has no public way to ask; redis-py asks the same way.
        if self._reader is None or self._reader._buffer:  # type: ignore[attr-defined]
            return True
        hiredis = getattr(self._parser, "_reader", None)
        return hiredis is not None and bool(hiredis.has_data())

    @property
    def is_unfinished(self) -> bool:
        """There are more questions than answers, or more answers than questions."""
        return self._asked != self._answered or self.is_unending

    @property
    def is_unsettled(self) -> bool:
        """A transaction or a WATCH is open, or may be."""
        return self._in_multi or self._is_watching or self._is_in_doubt

    def forget(self) -> None:
        """The session is known to be clean again."""
        self.is_touched = self._in_multi = self._is_watching = self._is_in_doubt = False

    async def ask(self, *questions: tuple[Any, ...]) -> list[Any]:
        """Send commands of the driver's own and read the answers, in one round trip.

        Returns:
            Answers as bytes, integers, lists and mappings; an error stands in its place, and is the last
            where it ends the connection.
        """
        async with self.turn:
            self._is_ours = True
            try:
                packed = self.pack_commands(questions)
            finally:
                self._is_ours = False
            await self.send_packed_command(packed)
            answers: list[Any] = []
            for _ in questions:
                try:
                    answers.append(await self.read_response(disable_decoding=True))
                except ResponseError as error:
                    answers.append(error)
                except redis.ConnectionError as error:
                    answers.append(error)
                    break
            return answers

    async def hang_up(self) -> None:
        """Close it politely, and wait until it is closed."""
        writer = self._writer
        self._leave()
        if writer is not None:
            writer.close()
            await writer.wait_closed()

    def cut(self) -> None:
        """Cut it at once; never waits, never raises."""
        # First, because the stream would complain when it is collected with its transport open.
        cut(self.transport.abort, self.transport)
        self._leave()

    def _leave(self) -> None:
        self._parser.on_disconnect()  # type: ignore[no-untyped-call]
        self._reader = self._writer = None

    # From here on: what redis-py calls.

    def pack_command(self, *args: Any) -> Packed:
        """The command for the wire; every command passes here."""
        self._packed += 1
        if args[0] not in HARMLESS and not self._is_ours:
            self._note(spoken(*args))
        return Packed(super().pack_command(*args))

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> Packed:
        """The commands for the wire, together."""
        before = self._packed
        packed = Packed(super().pack_commands(commands))
        packed.commands = self._packed - before
        return packed

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send what was packed.

        Raises:
            redis.ConnectionError: the connection is gone.
        """
        self._require_open()
        if isinstance(command, Packed):
            self._asked += command.commands
        else:
            self.is_unending = True  # bytes of the borrower's own: nobody has counted the commands in them
        if self._writer is None or self._writer.transport.is_closing():
            # CPython 3.13.0's writelines() on a transport that is closed fails with an AttributeError.
            raise redis.ConnectionError("the connection is lost")
        await super().send_packed_command(command, check_health)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next answer."""
        self._require_open()
        try:
            answer = await super().read_response(*args, **options)
        except ResponseError as error:
            self._answered += 1
            self._hear(error)
            raise
        self._answered += 1
        return answer

    async def connect(self, *args: Any, **options: Any) -> None:
        """Nothing, or an error: a lost session must not be replaced by another behind its borrower's back.

        Raises:
            redis.ConnectionError: the connection is gone.
        """
        self._require_open()

    connect_check_health = connect

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """Cut it: redis-py asks for this when an answer is lost."""
        self.cut()

    async def _connect(self) -> None:
        self._require_open()

    def _require_open(self) -> None:
        if not self.is_connected:
            raise redis.ConnectionError("the connection is closed; another lease gives another one")

    def _host_error(self) -> str:
        return self.host if self.host.startswith("/") else f"{self.host}:{self.port}"

    def repr_pieces(self) -> list[tuple[str, Any]]:
        """What its repr shows."""
        return [("host", self.host), ("port", self.port), ("db", self.db)]

    def _note(self, command: str) -> None:
        match command:
            case "MULTI":
                self._in_multi = True
            case "EXEC" | "DISCARD":
                # Without a MULTI the server answers with an error, and watches on.
                self._is_watching = self._is_watching and not self._in_multi
                self._in_multi = False
            case "WATCH":
                self._is_watching = True
            case "UNWATCH":
                self._is_watching = self._is_watching and self._in_multi
            case _:
                self.is_unending = self.is_unending or command in UNENDING
                self.is_changed_for_good = self.is_changed_for_good or command in LASTING
                self.is_touched = self.is_touched or not is_harmless(command)
                return
        self._last_transaction_word = self._packed

    def _hear(self, error: ResponseError) -> None:
        if isinstance(error, _REPLICAS_ONLY):
            self.is_replica = True
        if self._answered <= self._last_transaction_word:
            self._is_in_doubt = True  # the error may be MULTI's, EXEC's or WATCH's answer


class OnlyOne:
    """What redis-py takes for a pool: it has one connection to give, and that is never given back.

    Args:
        wire: the connection.
        options: what the connection was made with, for redis-py to look up.
        is_exclusive: whoever takes it has it for good, as subscriptions need.
    """

    def __init__(self, wire: Wire, options: dict[str, Any], *, is_exclusive: bool) -> None:
        self.connection_kwargs = options
        self.himport_registry = HImportRegistry() if HImportRegistry is not None else None
        self._wire, self._is_exclusive = wire, is_exclusive

    async def get_connection(self, *_: Any, **__: Any) -> Wire:
        """The one connection.

        Raises:
            redis.ConnectionError: it is gone.
            redis.RedisError: a subscription has it.
        """
        wire = self._wire
        await wire.connect()
        require_free(wire)
        if self._is_exclusive:
            wire.is_taken = wire.is_unending = True
        return wire

    async def release(self, _: Any) -> None:
        """Nothing: the pool that the lease comes from decides."""

    def get_encoder(self) -> Any:
        """How the connection encodes and decodes."""
        return self._wire.encoder

    async def aclose(self) -> None:
        """Cut the one connection."""
        self._wire.cut()

    disconnect = aclose

    def __repr__(self) -> str:
        return repr(self._wire)


def require_free(wire: Wire) -> None:
    """Refuse to share a connection with a subscription, which would take the answers for its messages.

    Raises:
        redis.RedisError: a subscription or monitor reads from it.
    """
    if wire.is_taken:
        raise redis.RedisError(
            "a pubsub() or monitor() reads from this connection; take another lease for other commands"
        )


class Callbacks(CaseInsensitiveDict):
    """redis-py's mapping from commands to what makes something of their answers; it notes that it changes.

    Args:
        callbacks: what it holds, by names in capitals.
        wire: what is touched when it changes.
    """

    def __init__(self, callbacks: Mapping[str, Any], wire: Wire) -> None:
        dict.update(self, callbacks)
        self._wire = wire
        self._before: dict[str, Any] | None = None

    def remember(self) -> None:
        """Take what it holds for what to come back to."""
        self._before = None

    def put_back(self) -> None:
        """Hold again what was remembered."""
        if self._before is not None:
            dict.clear(self)
            dict.update(self, self._before)
            self._before = None

    def _note(self) -> None:
        self._wire.is_touched = True
        if self._before is None:
            self._before = dict(self)

    def __setitem__(self, command: str, callback: Any) -> None:
        self._note()
        super().__setitem__(command, callback)  # type: ignore[no-untyped-call]

    def __delitem__(self, command: str) -> None:
        self._note()
        super().__delitem__(command)  # type: ignore[no-untyped-call]

    def __ior__(self, other: Any) -> "Callbacks":  # type: ignore[misc]
        self.update(other)
        return self

    def update(self, data: Any) -> None:  # type: ignore[override]
        """As redis-py's."""
        self._note()
        super().update(data)  # type: ignore[no-untyped-call]

    def pop(self, *args: Any) -> Any:
        """As a mapping's."""
        self._note()
        return super().pop(*args)

    def popitem(self) -> Any:
        """As a mapping's."""
        self._note()
        return super().popitem()

    def setdefault(self, *args: Any) -> Any:
        """As a mapping's."""
        self._note()
        return super().setdefault(*args)

    def clear(self) -> None:
        """As a mapping's."""
        self._note()
        super().clear()


class RedisConnection(redis.asyncio.Redis):
    """This is redis-py's client, bound to one connection; commands, pipelines, subscriptions all go there.

    Concurrent commands take turns. When the connection is lost every further command fails.

    Attributes:
        wire: the connection.
    """

    def __init__(self, wire: Wire, options: dict[str, Any]) -> None:
        shared: Any = OnlyOne(wire, options, is_exclusive=False)
        super().__init__(connection_pool=shared, single_connection_client=True)
        self.wire = wire
        self.connection = wire  # type: ignore[assignment]
        self._single_conn_lock = wire.turn
        self._callbacks = Callbacks(self.response_callbacks, wire)
        self.response_callbacks: Any = self._callbacks
        self._exclusive: Any = OnlyOne(wire, options, is_exclusive=True)

    @property
    def has_other_callbacks(self) -> bool:
        """Somebody has put another mapping of response callbacks in the place of its own."""
        return self.response_callbacks is not self._callbacks

    def remember(self) -> None:
        """Take the response callbacks as they are for those to come back to."""
        if self.has_other_callbacks:
            self._callbacks = Callbacks(CaseInsensitiveDict(self.response_callbacks), self.wire)
            self.response_callbacks = self._callbacks
        self._callbacks.remember()

    def put_back(self) -> None:
        """Bring the response callbacks back to those that were last remembered."""
        self.response_callbacks = self._callbacks
        self._callbacks.put_back()

    async def initialize(self) -> "RedisConnection":
        """Nothing is left to be done."""
        return self

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command and return its answer.

        Raises:
            redis.RedisError: as redis-py says; or a subscription reads from the connection.
        """
        require_free(self.wire)
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "RedisPipeline":
        """A pipeline on the same connection."""
        return RedisPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def pubsub(self, **options: Any) -> PubSub:
        """A subscription, which has the connection to itself from then on; its end is the connection's."""
        return PubSub(self._exclusive, event_dispatcher=self._event_dispatcher, **options)

    def monitor(self) -> Monitor:
        """A monitor, which has the connection to itself from then on; its end is the connection's."""
        return Monitor(self._exclusive)

    def client(self) -> "RedisConnection":
        """This client: it has one connection already."""
        return self

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Cut the connection; the pool opens another in its place."""
        self.end()

    def end(self) -> None:
        """Cut the connection."""
        # Or redis-py would complain, when this is collected, that nobody has closed it.
        self.connection = None
        self.wire.cut()


class RedisPipeline(Pipeline):
    """This is redis-py's pipeline on the connection of its client, taking turns with it."""

    async def _send_command_parse_response(
        self, conn: Any, command_name: Any, *args: Any, **options: Any
    ) -> Any:
        async with conn.turn:
            answer = await super()._send_command_parse_response(  # type: ignore[no-untyped-call]
                conn, command_name, *args, **options
            )
            return answer

    async def _execute_pipeline(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        async with connection.turn:
            return await super()._execute_pipeline(connection, commands, raise_on_error)

    async def _execute_transaction(self, connection: Any, commands: Any, raise_on_error: bool) -> Any:
        async with connection.turn:
            try:
                answers = await super()._execute_transaction(connection, commands, raise_on_error)
            except _REPLICAS_ONLY:
                # From inside the answer to EXEC, where the connection does not look.
                connection.is_replica = True
                raise
        if any(isinstance(each, _REPLICAS_ONLY) for each in answers):
            connection.is_replica = True
        return answers

    async def reset(self) -> None:  # type: ignore[override]
        """Empty it; what it watches is watched no more."""
        if self.watching and self.connection is not None:
            async with self.connection.turn:  # type: ignore[attr-defined]
                await super().reset()  # type: ignore[no-untyped-call]
        else:
            await super().reset()  # type: ignore[no-untyped-call]
