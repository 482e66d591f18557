"""A tiny server on loopback that repeats what it is told, and counts who is connected."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Session(asyncio.Protocol):
    def __init__(self, server: "EchoServer") -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._server.sessions.add(self._transport)
        self._server.accepted += 1

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.sessions.discard(self._transport)
        if not self._server.sessions:
            self._server.is_empty.set()


class EchoServer:
    """This answers each line with itself.

    Attributes:
        sessions: the connections that are open at the server.
        accepted: how many there have been.
    """

    def __init__(self) -> None:
        self.sessions: set[asyncio.WriteTransport] = set()
        self.accepted = 0
        self.is_empty = asyncio.Event()
        self.port = 0

    async def connect(self) -> Connection:
        """Open a connection to it."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def has_nobody(self) -> None:
        """Wait until no client is connected."""
        while self.sessions:
            self.is_empty.clear()
            await self.is_empty.wait()

    def hang_up(self) -> None:
        """Drop every client."""
        for session in list(self.sessions):
            session.abort()


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[EchoServer]:
    """A server while the block lasts."""
    echo = EchoServer()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Session(echo), "127.0.0.1", 0, backlog=200)
    echo.port = server.sockets[0].getsockname()[1]
    try:
        yield echo
    finally:
        server.close()
        echo.hang_up()
        await echo.has_nobody()
        await server.wait_closed()


async def ask(conn: Connection, question: str) -> str:
    """One round trip."""
    reader, writer = conn
    writer.write(f"{question}\n".encode())
    answer = await reader.readline()
    if not answer:
        raise ConnectionResetError("the server hung up")
    return answer.decode().strip()


async def close(conn: Connection) -> None:
    """The polite end, as the documentation of asyncio has it."""
    conn[1].close()
    with contextlib.suppress(OSError):
        await conn[1].wait_closed()
