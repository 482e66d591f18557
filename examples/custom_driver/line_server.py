"""A server of lines, to try the driver on: it runs in a thread, on a free port, and keeps nothing.

A session logs in with `LOGIN database password`, then each line is answered with one: `ECHO 7`, `PING`,
`SLEEP seconds`, `BEGIN`, `ADD words`, `COUNT`, `ROLLBACK`, `COMMIT`, `SET words`, `GET`, `RESET`. Each answer
begins with T (a transaction is open) or I (none is).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Self


class Refusal(Exception):
    """What the client is told."""


class Session(asyncio.Protocol):
    """One client. Lines that come while one is being answered wait."""

    def __init__(self, server: LineServer) -> None:
        self.server = server
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.is_in = False
        self.words = ""
        self.unconfirmed: list[str] | None = None  # a transaction's rows, while one is open
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is here."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.sessions.add(self)
        self.task = asyncio.get_running_loop().create_task(self.serve())

    def data_received(self, data: bytes) -> None:
        """Some bytes of some lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.lines.put_nowait(line.decode())

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone, and so is what it had not committed."""
        self.task.cancel()
        self.server.sessions.discard(self)

    async def serve(self) -> None:
        """Answer line by line."""
        while True:
            verb, _, rest = (await self.lines.get()).partition(" ")
            self.working_on = verb
            try:
                words = await self.answer(verb, rest)
            except Refusal as refusal:
                words = f"ERROR {refusal}"
            self.working_on = ""
            self.transport.write(f"{'I' if self.unconfirmed is None else 'T'} {words}\n".encode())

    working_on = ""

    async def answer(self, verb: str, rest: str) -> str:
        """What one line is answered with."""
        if verb == "LOGIN":
            database, _, password = rest.partition(" ")
            if password != self.server.password:
                raise Refusal(f"wrong password {password}")  # many a server repeats what it was told
            if database != "main":
                raise Refusal(f"there is no database {database}")
            self.is_in = True
        elif not self.is_in:
            raise Refusal("log in first")
        elif verb == "SLEEP":
            await asyncio.sleep(float(rest))
        else:
            action = _ACTIONS.get(verb)
            if action is None:
                raise Refusal(f"what is {verb}?")
            return action(self, rest)
        return "OK"

    def begin(self, _: str) -> str:
        """Rows wait from now on."""
        self.unconfirmed = []
        return "OK"

    def add(self, words: str) -> str:
        """One row."""
        (self.server.rows if self.unconfirmed is None else self.unconfirmed).append(words)
        return "OK"

    def count(self, _: str) -> str:
        """Rows, as this session sees them."""
        return str(len(self.server.rows) + len(self.unconfirmed or ()))

    def end(self, _: str) -> str:
        """What was not confirmed did not happen."""
        self.unconfirmed = None
        return "OK"

    def commit(self, _: str) -> str:
        """Now it did."""
        self.server.rows += self.unconfirmed or ()
        return self.end(_)

    def set(self, words: str) -> str:
        """Something that belongs to the session."""
        self.words = words
        return "OK"

    def reset(self, _: str) -> str:
        """As after the login."""
        self.words = ""
        return self.end(_)


_ACTIONS: dict[str, Callable[[Session, str], str]] = {
    "PING": lambda session, _: "PONG",
    "ECHO": lambda session, words: words,
    "GET": lambda session, _: session.words,
    "BEGIN": Session.begin,
    "ADD": Session.add,
    "COUNT": Session.count,
    "ROLLBACK": Session.end,
    "COMMIT": Session.commit,
    "SET": Session.set,
    "RESET": Session.reset,
}


class LineServer:
    """`with LineServer() as server:` it listens on `server.port` of the loopback address."""

    host = "127.0.0.1"

    def __init__(self, password: str = "") -> None:
        self.password = password
        self.sessions: set[Session] = set()
        self.rows: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = self._loop.create_server(lambda: Session(self), self.host, 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        tasks = [session.task for session in self.sessions]
        self._hang_up()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """End every session, without a word."""
        self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        for session in tuple(self.sessions):
            session.transport.abort()
