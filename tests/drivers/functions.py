"""Pairs of functions as drivers: what `from_factory` is given, async, plain, and plain in threads."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from types import MappingProxyType
from typing import Any

from line_server import LineServer
from millpond_lines import LinesDriver, Refused

from millpond import ConnectionPool
from millpond.driver import Verdict
from millpond.testing.contract import Backend, Knows
from tests.drivers.backends import until

LEVELS = ("none", "rollback", "full")


class AsyncFunctions(Backend):
    """Functions around an asyncio client, with one that judges."""

    knows = Knows.NOTHING  # is_closed() is not among the functions
    tells_permanent = False
    after_question = MappingProxyType({"full": Verdict.RESET})
    after_cancel = MappingProxyType(dict.fromkeys(LEVELS, Verdict.DISCARD))

    def __init__(self, server: LineServer) -> None:
        self.server = server

    def driver(self, *, database: str = "main") -> Any:
        lines = LinesDriver(host=self.server.host, port=self.server.port, database=database)
        return ConnectionPool.from_factory(
            lines.connect, close=lines.close, terminate=lines.terminate, validate=lines.ping,
            reset=lines.reset, after_lease=lines.after_lease,
        ).driver  # fmt: skip

    async def ask(self, conn: Any, number: int) -> int:
        return int(await self.say(conn, f"ECHO {number}"))

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.say(conn, "SLEEP 60"))
        await until(self.is_slow)
        return task

    async def is_slow(self) -> bool:
        """Whether the server is working on a slow request."""
        return any(session.working_on == "SLEEP" for session in self.server.sessions)

    async def say(self, conn: Any, line: str) -> str:
        """The answer to a line."""
        answer: str = await conn.ask(line)
        return answer

    async def sessions(self) -> int:
        return len(self.server.sessions)

    async def begin(self, conn: Any) -> None:
        await self.say(conn, "BEGIN")
        await self.say(conn, "ADD unconfirmed")

    async def rows(self, conn: Any) -> int:
        return int(await self.say(conn, "COUNT"))

    async def fail(self, conn: Any) -> None:
        await self.say(conn, "NONSENSE")

    async def change(self, conn: Any) -> None:
        await self.say(conn, "SET something")

    async def state(self, conn: Any) -> str:
        return await self.say(conn, "GET")


class PlainClient:
    """A client that waits for each answer, as most libraries do that know nothing of asyncio."""

    def __init__(self, server: LineServer, database: str) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=60)
        self.in_use = threading.Lock()
        try:
            self.say(f"LOGIN {database} {server.password}")
        except BaseException:
            self.hang_up()
            raise

    def say(self, line: str) -> str:
        """The answer to a line."""
        answer = b""
        with self.in_use:
            self.socket.sendall(f"{line}\n".encode())
            while not answer.endswith(b"\n"):
                some = self.socket.recv(4096)
                if not some:
                    raise ConnectionResetError("the server has hung up")
                answer += some
        words = answer.decode().strip().partition(" ")[2]
        if words.startswith("ERROR"):
            raise Refused(words)
        return words

    def hang_up(self) -> None:
        """Wake whoever waits for an answer, and close."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        # Not under somebody's hands: the descriptor's number may be another's a moment later.
        with self.in_use:
            self.socket.close()


class PlainFunctions(AsyncFunctions):
    """Functions that are not async, called inline or in threads; nobody judges, so an error discards."""

    def __init__(self, server: LineServer, *, blocking: bool) -> None:
        super().__init__(server)
        self.blocking = blocking

    def driver(self, *, database: str = "main") -> Any:
        return ConnectionPool.from_factory(
            lambda: PlainClient(self.server, database),
            close=PlainClient.hang_up,
            validate=lambda conn: conn.say("PING") == "PONG",
            reset=lambda conn: conn.say("RESET"),
            blocking=self.blocking,
        ).driver

    async def say(self, conn: Any, line: str) -> str:
        if line.startswith("SLEEP"):
            return await in_a_thread_of_its_own(conn.say, line)
        if self.blocking:
            return await asyncio.to_thread(conn.say, line)
        answer: str = conn.say(line)
        return answer


def in_a_thread_of_its_own(function: Callable[..., str], *args: Any) -> asyncio.Future[str]:
    """As `asyncio.to_thread`, but the end of the loop does not wait for it."""
    done: Future[str] = Future()

    def run() -> None:
        try:
            done.set_result(function(*args))
        except Exception as error:
            with contextlib.suppress(InvalidStateError):
                done.set_exception(error)

    threading.Thread(target=run, name="slow request", daemon=True).start()
    return asyncio.wrap_future(done)
