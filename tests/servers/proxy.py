"""A network that can be made bad: a TCP proxy on loopback, between a pool and its server.

A connection through it is a `Link`. What the proxy can do to bytes, and to the end of a connection, which
travels as bytes do:

    stall     keep them back until it heals, as a network does whose packets are sent again
    swallow   lose them; such a link is never well again, and `heal` cuts it
    delay     pass each piece on later
    cut       reset the connection (RST), now or in the middle of an answer
    close     end it politely (FIN), from the server's side

And to those who want to connect: refuse them, or let them in and never answer.

It lives in the event loop of the test.
"""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tests.servers import ports

_PIECE = 65_536
_BACKLOG = 128
_RESET = struct.pack("ii", 1, 0)  # linger on, for no time: close() sends RST


class Way(enum.Enum):
    """Which way bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


BOTH_WAYS = (Way.TO_SERVER, Way.TO_CLIENT)


class Lane:
    """One direction of a link: what it carries, and what stops it.

    Attributes:
        flows: cleared while bytes are kept back.
        is_lossy: bytes are lost.
        carried: bytes that arrived on the other side.
        most: after so many bytes the link is cut; None: never.
    """

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.flows = asyncio.Event()
        self.flows.set()
        self.is_lossy = False
        self.carried = 0
        self.most: int | None = None


class Link:
    """One client's connection, and the one to the server that belongs to it.

    Attributes:
        number: from 1, in the order of arrival.
        lanes: its two directions.
        is_open: neither side has ended it yet.
    """

    def __init__(self, proxy: "Proxy", number: int, client: socket.socket, server: socket.socket) -> None:
        self.number = number
        self.is_open = True
        self.lanes = {Way.TO_SERVER: Lane(client, server), Way.TO_CLIENT: Lane(server, client)}
        self._proxy, self._client, self._server = proxy, client, server
        self._tasks = [asyncio.create_task(self._carry(lane)) for lane in self.lanes.values()]

    def stall(self, *ways: Way) -> None:
        """Keep bytes back until it heals; both ways unless told."""
        for way in ways or BOTH_WAYS:
            self.lanes[way].flows.clear()

    def swallow(self, *ways: Way) -> None:
        """Lose all bytes from now on; both ways unless told."""
        for way in ways or BOTH_WAYS:
            self.lanes[way].is_lossy = True

    def heal(self) -> None:
        """Pass on what was kept back; a link that has lost bytes is cut, for nothing can mend it."""
        if any(lane.is_lossy for lane in self.lanes.values()):
            self.cut()
        for lane in self.lanes.values():
            lane.flows.set()

    def cut(self, *, after: int | None = None) -> None:
        """Reset the connection on both sides.

        Args:
            after: pass on so many bytes of what the server says first; None: now.
        """
        if after is None:
            self._end(is_reset=True)
        else:
            answers = self.lanes[Way.TO_CLIENT]
            answers.most = answers.carried + after

    def close(self) -> None:
        """End it politely on both sides: each hears that the other has closed."""
        self._end(is_reset=False)

    async def _carry(self, lane: Lane) -> None:
        loop = asyncio.get_running_loop()
        try:
            while piece := await loop.sock_recv(lane.source, _PIECE):
                await self._pass_on(lane, piece)
                if not self.is_open:
                    return
            # The end comes after the bytes, and is kept back or lost as they are.
            await lane.flows.wait()
            if not lane.is_lossy:
                self.close()
        except OSError:
            await lane.flows.wait()
            if not lane.is_lossy:
                self.cut()

    async def _pass_on(self, lane: Lane, piece: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self._proxy.latency:
            await asyncio.sleep(self._proxy.latency)
        await lane.flows.wait()
        if lane.is_lossy:
            return
        if lane.most is not None:
            piece = piece[: max(0, lane.most - lane.carried)]
        if piece:
            await loop.sock_sendall(lane.target, piece)
            lane.carried += len(piece)
        if lane.most is not None and lane.carried >= lane.most:
            self.cut()

    def _end(self, *, is_reset: bool) -> None:
        if not self.is_open:
            return
        self.is_open = False
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for end in (self._client, self._server):
            if is_reset:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # The descriptor may be another's by the time the loop would forget it.
            loop = asyncio.get_running_loop()
            loop.remove_reader(end)
            loop.remove_writer(end)
            end.close()
        self._proxy.links.discard(self)

    async def ended(self) -> None:
        """Return when nothing of it runs any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Proxy:
    """A way to the server at `port` that tests can spoil; `async with`.

    Args:
        port: where the server listens, on loopback.

    Attributes:
        host, port: where clients connect to.
        server_port: where links to come lead, as an address does that moves in a failover.
        latency: each piece of bytes takes so much longer, seconds.
        links: those that are open.
        accepted: how many connections there have been.
    """

    def __init__(self, port: int) -> None:
        self.host = ports.HOST
        self.port = ports.free_port()
        self.latency = 0.0
        self.links: set[Link] = set()
        self.accepted = 0
        self.server_port = port
        self._is_deaf = False
        self._unanswered: list[socket.socket] = []
        self._all_links: list[Link] = []
        self._connecting: set[asyncio.Task[None]] = set()
        # The rules for links to come.
        self._stalled: set[Way] = set()
        self._door = socket.socket()
        self._door.setblocking(False)
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._door.bind((self.host, self.port))

    async def __aenter__(self) -> Self:
        self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._door)
        self._door.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self.cut()
        self._hang_up_on_unanswered()
        await asyncio.gather(*(link.ended() for link in self._all_links))

    # What happens to those who connect.

    def accept(self) -> None:
        """Let clients through to the server; as it is in the beginning."""
        self._is_deaf = False
        self._hang_up_on_unanswered()
        self._door.listen(_BACKLOG)
        asyncio.get_running_loop().add_reader(self._door, self._let_in)

    def refuse(self) -> None:
        """Refuse whoever connects from now on, as if nobody listened."""
        asyncio.get_running_loop().remove_reader(self._door)
        # Ends listening and keeps the port; what Linux documents for sockets, listen(2) begins it again.
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)

    def ignore(self) -> None:
        """Let clients in from now on and never answer them; the server hears nothing of it."""
        self._is_deaf = True

    # What happens to all links, those to come included for `stall`.

    def stall(self, *ways: Way) -> None:
        """Keep all bytes back until `heal`, those of new links too; both ways unless told."""
        self._stalled |= set(ways or BOTH_WAYS)
        for link in self.links:
            link.stall(*ways)

    def swallow(self, *ways: Way) -> None:
        """Lose all bytes of the links that are open; new ones work."""
        for link in self.links:
            link.swallow(*ways)

    def heal(self) -> None:
        """Be a good network again: pass on what was kept back, cut what cannot be mended, let clients in."""
        self._stalled.clear()
        self.latency = 0.0
        for link in list(self.links):
            link.heal()
        self.accept()

    def cut(self, *, after: int | None = None) -> None:
        """Reset every link, now or when so many bytes more of the server's have passed on it."""
        for link in list(self.links):
            link.cut(after=after)

    def close(self) -> None:
        """End every link politely."""
        for link in list(self.links):
            link.close()

    def _let_in(self) -> None:
        try:
            client, _ = self._door.accept()
        except OSError:
            return  # gone again before we looked, or the door is closed
        client.setblocking(False)
        if self._is_deaf:
            self._unanswered.append(client)
            return
        task = asyncio.create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: socket.socket) -> None:
        server = socket.socket()
        server.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(server, (ports.HOST, self.server_port))
        except BaseException as error:
            self._hang_up([server, client])
            if isinstance(error, OSError):
                return  # nobody listens there: the client is reset
            raise
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        link = Link(self, self.accepted, client, server)
        self.links.add(link)
        self._all_links.append(link)
        if self._stalled:
            link.stall(*self._stalled)

    def _hang_up_on_unanswered(self) -> None:
        self._hang_up(self._unanswered)
        self._unanswered.clear()

    @staticmethod
    def _hang_up(ends: Iterable[socket.socket]) -> None:
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()
