"""The client library: what `asyncpg` is to PostgreSQL, this is to a server of lines."""

from __future__ import annotations

import asyncio


class Refused(Exception):
    """The server understood, and said no."""


class Line:
    """One session with the server.

    Attributes:
        unread: answers that the server still owes.
        in_transaction: whether a transaction is open, as the latest answer said.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.unread = 0
        self.in_transaction = False

    @classmethod
    async def open(cls, host: str, port: int) -> Line:
        """A session that has not logged in yet."""
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, line: str) -> str:
        """The answer to one line.

        Raises:
            Refused: the server said no.
            ConnectionError: it hung up, or this side did.
        """
        if self.writer.is_closing():
            raise ConnectionResetError("the line is closed")
        self.unread += 1
        self.writer.write(f"{line}\n".encode())
        answer = (await self.reader.readline()).decode()
        if not answer.endswith("\n"):
            raise ConnectionResetError("the server has hung up")
        self.unread -= 1
        state, _, words = answer.strip().partition(" ")
        self.in_transaction = state == "T"
        if words.startswith("ERROR"):
            raise Refused(words.removeprefix("ERROR "))
        return words
