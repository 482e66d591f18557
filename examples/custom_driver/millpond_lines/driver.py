"""The driver: how a pool connects to a server of lines, checks, cleans and ends a session."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from millpond.driver import Verdict
from millpond.drivers import cut
from millpond.settings import PoolSettings

from .client import Line, Refused


class LinesDriver:
    """This connects to one server of lines."""

    name: str = "lines"
    kind: ClassVar[str] = "lines"  # "type" in connections.json
    schemes: ClassVar[tuple[str, ...]] = ("lines",)  # create_pool("lines://...")
    extra: ClassVar[str] = "millpond-lines"  # what to install
    default_sizes: ClassVar[tuple[int, int]] = (1, 10)
    secret_options: ClassVar[frozenset[str]] = frozenset({"password"})

    def __init__(
        self, *, host: str = "localhost", port: int = 7070, database: str = "main", password: str = ""
    ) -> None:
        self.host, self.port, self.database = host, port, database
        self._password, self._level = password, "full"

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `lines://:password@host:port/database` says."""
        parts = urlsplit(url)
        if parts.scheme not in cls.schemes:
            raise ValueError("the URL must begin with lines://")
        said = {"host": parts.hostname, "port": parts.port, "password": parts.password}
        return {key: value for key, value in (*said.items(), ("database", parts.path[1:])) if value}

    def configured(self, settings: PoolSettings) -> Self:
        """A copy whose resets go to the level of the pool's settings."""
        bound = copy(self)
        bound._level = settings.reset
        return bound

    def redact(self, text: str) -> str:
        """`text` without the password."""
        return text.replace(self._password, "***") if self._password else text

    async def connect(self) -> Line:
        """Open a session and log in."""
        conn = await Line.open(self.host, self.port)
        try:
            await conn.ask(f"LOGIN {self.database} {self._password}")
        except BaseException:  # a cancellation, too, must not leave the socket open
            self.terminate(conn)
            raise
        return conn

    async def ping(self, conn: Line) -> None:
        """One round trip, and the answer must be the ping's own."""
        if await conn.ask("PING") != "PONG":
            raise ConnectionError("the answer belongs to another question")

    async def reset(self, conn: Line) -> None:
        """Roll back; at level `full` forget everything that the last borrower said."""
        await conn.ask("RESET" if self._level == "full" else "ROLLBACK")

    async def close(self, conn: Line) -> None:
        """Close, and wait until it is closed."""
        conn.writer.close()
        await conn.writer.wait_closed()

    def terminate(self, conn: Line) -> None:
        """Cut the connection, also when its event loop is closed already."""
        cut(conn.writer.transport.abort, conn.writer.transport)

    def is_closed(self, conn: Line) -> bool:
        """True when one of the two sides has hung up."""
        return conn.writer.is_closing() or conn.reader.at_eof()

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        """Judge by what the connection knows of itself; the borrower's own error says nothing."""
        if self.is_closed(conn) or conn.unread:
            return Verdict.DISCARD  # the next answer would be the last borrower's
        if self._level == "full":
            return Verdict.RESET
        if conn.in_transaction:
            return Verdict.RESET if self._level == "rollback" else Verdict.DISCARD
        return Verdict.KEEP

    def is_permanent(self, error: BaseException) -> bool:
        """True when the server knows us, and says no."""
        return isinstance(error, Refused)

    def filenos(self, conn: Line) -> tuple[int, ...]:
        """The socket; the child of a fork closes its copy without a word."""
        number = conn.writer.get_extra_info("socket").fileno()
        return (number,) if number >= 0 else ()
