"""aio-pika's connections and channels, made so that they can be cut, and know what became of the session.

aio-pika's robust connections heal themselves behind the pool's back, and so are not used here. What its
plain ones lack: aiormq does not look at the server's limit of channels, has no end that does not wait, and
says `InvalidFrameError` for a virtual host that does not exist.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import aio_pika
import aiormq
import pamqp.frame
from aio_pika.abc import UnderlayChannel, UnderlayConnection
from aio_pika.tools import CallbackCollection, OneShotCallback
from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel, Returning
from aiormq.connection import Connection, TransportFactory
from aiormq.exceptions import DeliveryError, InvalidFrameError, ProbableAuthenticationError
from pamqp import commands as spec
from yarl import URL

from millpond.drivers._rabbitmq_claims import Claims, deletion, is_claim
from millpond.drivers._shared import Unfit, cut, tune_socket

_MOST_CHANNELS: Final = 65535  # what a server that names no limit can take
_ACCESS_REFUSED: Final = 403
_NOT_ALLOWED: Final = 530


class Refused(ConnectionError):
    """The server does not let this user into this virtual host, or there is no such virtual host."""


class Plug(TransportFactory):
    """This opens the socket, and can cut it.

    Args:
        context: for TLS; None: plain TCP.
        keepalive: as for `tune_socket`.
        user_timeout: as for `tune_socket`.
    """

    def __init__(
        self, context: ssl.SSLContext | None, *, keepalive: float | None, user_timeout: float | None
    ) -> None:
        self._context, self._keepalive, self._user_timeout = context, keepalive, user_timeout
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, host: str, port: int) -> None:
        """Open it.

        Raises:
            OSError: it cannot be opened, or TLS does not hold.
        """
        self._reader, self._writer = await asyncio.open_connection(host, port, ssl=self._context)
        tune_socket(
            self._writer.get_extra_info("socket"), keepalive=self._keepalive, user_timeout=self._user_timeout
        )

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What was opened; were it opened here, aiormq would log the error that the caller gets anyway."""
        if self._reader is None or self._writer is None:
            raise ConnectionResetError("the socket is not open")
        return self._reader, self._writer

    @property
    def is_cut(self) -> bool:
        """There is no socket, or it is closing."""
        return self._writer is None or self._writer.transport.is_closing()

    @property
    def fileno(self) -> int:
        """The socket's descriptor; -1 once it is closed."""
        sock = None if self._writer is None else self._writer.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def cut(self) -> None:
        """Cut it at once; never waits, never raises."""
        if self._writer is not None:
            cut(self._writer.transport.abort, self._writer.transport)


class Wire(Connection):
    """aiormq's connection; its channels are `Lane`s, and never more than the server allows."""

    @staticmethod
    async def _rpc(
        request: Any, writer: asyncio.StreamWriter, frame_receiver: Any, wait_response: bool = True
    ) -> Any:
        """One step of the greeting; a refusal comes out as the error that it is."""
        writer.write(pamqp.frame.marshal(request, 0))
        await writer.drain()
        if not wait_response:
            return None
        _, _, frame = await frame_receiver.get_frame()
        if isinstance(frame, spec.Connection.Close):
            raise _refusal(frame.reply_code or 0, frame.reply_text or "")
        if request.synchronous and frame.name not in request.valid_responses:
            raise InvalidFrameError(f"expected one of {request.valid_responses!r}, got {frame!r}")
        return frame

    @property
    def most_channels(self) -> int:
        """The server's limit."""
        return int(self.connection_tune.channel_max or _MOST_CHANNELS)

    async def channel(
        self, channel_number: int | None = None, publisher_confirms: bool = True, *_: Any, **options: Any
    ) -> Lane:
        """Open a channel under the lowest free number.

        aiormq counts up from the highest one in use, and so comes to the server's limit, where the server
        ends the whole connection.

        Raises:
            ConnectionError: the connection is closed, or has no room for another channel.
        """
        await self.connected.wait()
        if self.is_closed:
            raise ConnectionResetError("the connection is closed")
        number = channel_number or next(n for n in range(1, _MOST_CHANNELS + 2) if n not in self.channels)
        if number > self.most_channels:
            raise Unfit(f"the connection has no room for another channel: {self.most_channels} are open")
        options.pop("timeout", None)
        options.pop("frame_buffer_size", None)
        lane = Lane(
            self,
            number,
            frame_buffer=self.FRAME_BUFFER_SIZE,
            publisher_confirms=publisher_confirms,
            **options,
        )
        self.channels[number] = lane
        await lane.open()
        return lane


def _refusal(code: int, text: str) -> ConnectionError:
    if code == _ACCESS_REFUSED:
        return ProbableAuthenticationError(text)
    # The same code says that a limit of connections is reached, and that a virtual host is down.
    if code == _NOT_ALLOWED and "limit" not in text and "is down" not in text:
        return Refused(text)
    return aiormq.exceptions.ConnectionClosed(code, text)


class Lane(Channel):
    """aiormq's channel, which reads along what becomes of the session.

    Attributes:
        is_transactional: `tx.select` was said; there is no way back.
        has_qos: a prefetch was set.
        was_told_to_confirm: `confirm.select` was said where the pool did not want it; no way back.
        unacknowledged: tags of the deliveries that the server waits for a word about.
        claims: the exclusive queues that were declared on it.
    """

    def __init__(self, connector: Wire, number: int, **options: Any) -> None:
        self.is_transactional = self.has_qos = self.was_told_to_confirm = False
        self.unacknowledged: set[int] = set()
        self.claims = Claims()
        self._careless: set[str] = set()  # consumers whose deliveries need no word
        self._is_careless_get = False
        self._asking = 0
        self._said = self._covered = 0  # words that call for no answer, and how many of them one has followed
        super().__init__(connector, number, **options)

    @property
    def is_unsettled(self) -> bool:
        """A transaction may be open, messages may come, or wait to be acknowledged."""
        return self.is_transactional or bool(self.consumers) or bool(self.unacknowledged)

    @property
    def is_touched(self) -> bool:
        """The session differs from that of a fresh channel."""
        return self.is_unsettled or self.has_qos or self.was_told_to_confirm

    @property
    def is_unfinished(self) -> bool:
        """A question has no answer yet, or a message no confirmation."""
        if self._asking > 0:
            return True
        confirmations = self.confirmations
        return bool(confirmations) and any(not isinstance(each, Returning) for each in confirmations.values())

    @property
    def is_unheard(self) -> bool:
        """The server may still close the channel because of a word that calls for no answer.

        It answers in order: whatever it says to an earlier word comes before the answer to a later one.
        """
        return self._covered < self._said

    def _speak(self) -> None:
        self._said += 1

    def _hear(self, said: int) -> None:
        self._covered = max(self._covered, said)

    @property
    def _end_begun(self) -> asyncio.Event:
        # aiormq has no public word for it; its own `is_closed` comes a round trip later.
        event: asyncio.Event = self._Channel__close_event  # type: ignore[attr-defined]
        return event

    @property
    def is_ending(self) -> bool:
        """One side has said `channel.close`; this one does so when a call was cancelled.

        It must not be said twice: the second answer would reach the next channel with the same number.
        """
        return self._end_begun.is_set()

    async def rpc(self, frame: Any, timeout: Any = None) -> Any:
        """Send what calls for an answer."""
        match frame:
            case spec.Tx.Select():
                self.is_transactional = True
            case spec.Basic.Qos():
                self.has_qos = True
            case spec.Confirm.Select():
                self.was_told_to_confirm = not self.publisher_confirms
            case spec.Basic.Get():
                self._is_careless_get = bool(frame.no_ack)
            case spec.Basic.Consume() if frame.no_ack:
                self._careless.add(str(frame.consumer_tag))
        self._asking += 1
        if getattr(frame, "nowait", False):
            self._speak()
        said = self._said
        try:
            with self.claims.asking(frame) if is_claim(frame) else nullcontext():
                answer = await super().rpc(frame, timeout=timeout)
        finally:
            self._asking -= 1
        if answer is not None:
            self._hear(said)
        if self.claims:
            self.claims.hear(frame, answer)
        return answer

    async def _read_content(self, frame: Any, header: Any) -> DeliveredMessage:
        match frame:
            case spec.Basic.Deliver() if frame.consumer_tag not in self._careless:
                self.unacknowledged.add(int(frame.delivery_tag or 0))
            case spec.Basic.GetOk() if not self._is_careless_get:
                self.unacknowledged.add(int(frame.delivery_tag or 0))
        return await super()._read_content(frame, header)

    async def basic_publish(self, body: bytes, **options: Any) -> Any:
        """Publish; wait for the confirm, where there is one."""
        self._speak()
        said = self._said
        try:
            answer = await super().basic_publish(body, **options)
        except DeliveryError:  # a refusal is an answer
            self._hear(said)
            raise
        if answer is not None:
            self._hear(said)
        return answer

    # The word is out only when these return: what was cancelled on its way counts as not said.

    async def basic_ack(self, delivery_tag: int, multiple: bool = False, wait: bool = True) -> None:
        """Acknowledge."""
        self._speak()
        await super().basic_ack(delivery_tag, multiple=multiple, wait=wait)
        self._settle(delivery_tag, multiple)

    async def basic_nack(
        self, delivery_tag: int, multiple: bool = False, requeue: bool = True, wait: bool = True
    ) -> None:
        """Reject one or several."""
        self._speak()
        await super().basic_nack(delivery_tag, multiple=multiple, requeue=requeue, wait=wait)
        self._settle(delivery_tag, multiple)

    async def basic_reject(self, delivery_tag: int, *, requeue: bool = True, wait: bool = True) -> None:
        """Reject one."""
        self._speak()
        await super().basic_reject(delivery_tag, requeue=requeue, wait=wait)
        self._settle(delivery_tag, False)

    def _settle(self, delivery_tag: int, multiple: bool) -> None:
        if multiple:
            # Tag 0 means all of them.
            self.unacknowledged = {each for each in self.unacknowledged if 0 < delivery_tag < each}
        else:
            self.unacknowledged.discard(delivery_tag)

    async def hang_up(self) -> None:
        """Close the channel whatever is under way on it; return when the server has said yes.

        aiormq's own close waits behind a call that is not answered.
        """
        if self.is_closed:
            return
        end = self.closing
        if not self.is_ending:
            self._end_begun.set()
            goodbye = spec.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
            await self.write_queue.put(ChannelFrame.marshall(channel_number=self.number, frames=[goodbye]))
        await asyncio.wait({end})


class _AtEnd(OneShotCallback):
    """What aio-pika does at the end of a channel or connection, without a task where none is needed.

    A task that begins while the loop ends is destroyed halfway, with a complaint.
    """

    def __init__(self, callback: Callable[..., Any], quietly: Callable[[], bool]) -> None:
        super().__init__(callback)
        self._quietly = quietly

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not self._quietly():
            return super().__call__(*args, **options)
        self.finished.set()
        return None


class Line(aio_pika.Connection):
    """aio-pika's connection over one `Wire`, opened once and never again.

    Attributes:
        is_retired: it may have an exclusive queue of somebody who has gone; no further lease is on it.

    Args:
        url: scheme, host and port; nothing secret.
        user: who logs in.
        password: with what.
        vhost: the virtual host.
        plug: opens and cuts the socket.
        name: what the server lists it as.
        heartbeat: seconds; 0: none.
    """

    def __init__(
        self, url: URL, *, user: str, password: str, vhost: str, plug: Plug, name: str, heartbeat: int
    ) -> None:
        super().__init__(url)
        self.plug = plug
        self.is_retired = False
        self.wire = Wire(
            # An empty user or password would mean "guest" there.
            url.with_user(user).with_password(password).update_query(heartbeat=heartbeat),
            transport_factory=plug,
            client_properties={"connection_name": name},
        )
        self.wire.vhost = vhost

    async def connect(self, timeout: Any = None) -> None:
        """Open it.

        Raises:
            Refused: there is no such virtual host, or not for this user.
            OSError, aiormq.AMQPError: anything else.
        """
        try:
            await self.plug.open(str(self.url.host), int(self.url.port or 0))
            await self.wire.connect()
        finally:
            self.wire.url = self.url  # from now on without the password
        at_end = _AtEnd(self._on_connection_close, lambda: not self.close_callbacks)
        self.wire.closing.add_done_callback(at_end)
        self.transport = UnderlayConnection(connection=self.wire, close_callback=at_end)
        await self._on_connected()

    @property
    def is_lost(self) -> bool:
        """Either side has closed it."""
        # Below: `wire.is_opened`, which first looks whether there are such tasks; once it is open there are.
        wire = self.wire
        return self.plug.is_cut or wire.is_closed or wire._reader_task.done() or wire._writer_task.done()

    def cut(self) -> None:
        """Cut it at once; never waits, never raises."""
        self.plug.cut()

    async def ended(self) -> None:
        """Return when aiormq's tasks for it have ended."""
        if not self.wire.is_closed:
            await asyncio.wait({self.wire.closing})

    def __del__(self) -> None:
        """Nothing: aio-pika would start a task here."""


class RabbitMQChannel(aio_pika.Channel):
    """aio-pika's channel, as the driver lends it.

    Attributes:
        is_ended: the pool has let it go.
        is_unanswered: a question of the pool's own was not answered.
    """

    def __init__(self, connection: Line, *, publisher_confirms: bool) -> None:
        super().__init__(connection, publisher_confirms=publisher_confirms)
        self.line = connection
        self.is_ended = self.is_unanswered = False
        self._lanes: list[Lane] = []  # of this lease: its borrower may have closed one and opened another

    @property
    def lane(self) -> Lane | None:
        """What is below; None before it is open."""
        lane = None if self._channel is None else self._channel.channel
        return lane if isinstance(lane, Lane) else None

    @property
    def is_lost(self) -> bool:
        """Either side has closed it, or its connection, or that is not to be used again."""
        # Asked twice at every lease: in the order of what it costs, and without what others ask again.
        line = self.line
        if self.is_ended or line.is_retired or self._closed.done():
            return True
        lane = self.lane
        return lane is None or lane.is_closed or lane.is_ending or line.is_lost

    @property
    def has_claims(self) -> bool:
        """An exclusive queue of its borrower's may be on the connection."""
        lanes = self._lanes
        if len(lanes) == 1:  # the usual case, without a generator
            return bool(lanes[0].claims)
        return any(lane.claims for lane in lanes)

    @property
    def is_unsettled(self) -> bool:
        """Something of its borrower's goes on, or waits for the next one."""
        return self.has_claims or (self.lane is not None and self.lane.is_unsettled)

    @property
    def is_touched(self) -> bool:
        """It differs from a fresh one."""
        lane = self.lane
        return (lane is not None and lane.is_touched) or self.has_claims or self.has_callbacks

    @property
    def has_callbacks(self) -> bool:
        """A borrower has added one."""
        if self.return_callbacks:
            return True
        if len(self.close_callbacks) > 1:
            # Collections belong to queues that the borrower has declared, and go with these.
            of_its_own = [each for each in self.close_callbacks if not isinstance(each, CallbackCollection)]
            if len(of_its_own) > 1:
                return True
        # aio-pika listens to the channel below for returned messages, and to nothing else.
        lane = self.lane
        return lane is not None and (
            len(lane.on_return_callbacks) > 1 or len(lane.on_consumer_cancel_callbacks) > 0
        )

    async def _open(self) -> None:
        # aio-pika's own would leave something on the connection for every channel that was ever opened on it.
        wire = self.line.wire
        await wire.ready()
        lane = await wire.channel(
            publisher_confirms=self.publisher_confirms, on_return_raises=self.on_return_raises
        )
        self._lanes.append(lane)
        at_end = _AtEnd(self._on_close, self._end_quietly)
        lane.closing.add_done_callback(at_end)
        self._channel = UnderlayChannel(channel=lane, close_callback=at_end)
        await self._on_open()
        if self._closed.done():
            self._closed = asyncio.get_running_loop().create_future()

    def _end_quietly(self) -> bool:
        if len(self.close_callbacks) > 1:
            return False
        if not self._closed.done():
            self._closed.set_result(True)
        return True

    async def renew(self) -> None:
        """Become a fresh channel: the server forgets all about the old one, and requeues what it held.

        Raises:
            ConnectionError: it is closed already, or has an exclusive queue of a name that nobody has heard.
            aiormq.AMQPError: an exclusive queue could not be deleted.
        """
        lane = self.lane
        if lane is None or self.is_lost:
            raise ConnectionResetError("the channel is closed")
        await self._delete_exclusive(lane)
        self._lanes.clear()
        self.return_callbacks.clear()
        self.close_callbacks.clear()
        self.close_callbacks.add(self._set_closed_callback)
        await lane.hang_up()
        await self.reopen()
        await self._on_initialized()  # reopen() forgets to listen for returned messages

    async def _delete_exclusive(self, lane: Lane) -> None:
        if any(each.claims.nameless for each in self._lanes):
            raise ConnectionResetError("there may be an exclusive queue whose name nobody has heard")
        others = [each for each in self.line.wire.channels.values() if each not in self._lanes]
        kept = {name for each in others if isinstance(each, Lane) for name in each.claims.named}
        mine = {name: said for each in self._lanes for name, said in each.claims.named.items()}
        for frame in deletion({name: said for name, said in mine.items() if name not in kept}):
            await lane.rpc(frame)

    async def hang_up(self) -> None:
        """Close it, whatever is under way on it."""
        if self.lane is not None:
            await self.lane.hang_up()
