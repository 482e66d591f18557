"""Redis, as driver tests need to know it."""

import asyncio
from itertools import count
from types import MappingProxyType
from typing import Any

import pytest
import redis as redis_py

from millpond.driver import Verdict
from millpond.drivers.redis import RedisDriver
from tests.drivers.backends import WRONG_SECRET, Backend, until
from tests.servers import RedisClient, RedisServer, free_port

_numbers = count(1)


class Redis(Backend):
    """Keys of its own on the private server; the "table" is a list."""

    nowhere = MappingProxyType({"database": 9999})
    nowhere_said = "DB index is out of range"
    # The connection reads along: after plain commands there is nothing to reset.
    after_question = dict.fromkeys(("none", "rollback", "full"), Verdict.KEEP)
    # What the server sends after a request that was given up cannot be told apart from the next answer.
    after_cancel = dict.fromkeys(("none", "rollback", "full"), Verdict.DISCARD)

    wrong_secret = WRONG_SECRET

    errors = (redis_py.RedisError,)

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.client_name = f"driver-test-{next(_numbers)}"
        self.table = f"{self.client_name}:notes"
        self.unreachable = {"port": free_port()}

    @property
    def options(self) -> dict[str, Any]:
        """What leads to it."""
        return {
            "host": self.server.host, "port": self.server.port, "user": self.server.user,
            "password": self.server.password, "client_name": self.client_name,
        }  # fmt: skip

    def driver(self, **options: Any) -> RedisDriver:
        return RedisDriver(**{**self.options, **options})

    async def clients(self) -> list[RedisClient]:
        """The sessions of this test's, as the server sees them; also those that are just logging in."""
        seen = await asyncio.to_thread(self.server.connections)
        return [each for each in seen if each.name in (self.client_name, "")]

    async def sessions(self) -> int:
        return len(await self.clients())

    async def client(self, conn: Any) -> RedisClient:
        """One connection, as the server sees it."""
        number = await conn.client_id()
        return next(each for each in await self.clients() if each.id == number)

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(conn.blpop([f"{self.client_name}:never"], timeout=30))
        await until(self.is_slow)
        return task

    async def is_slow(self) -> bool:
        """Whether a client of this test's is blocked."""
        return any("b" in each.flags for each in await self.clients())

    async def ask(self, conn: Any, number: int) -> int:
        return int(await conn.echo(str(number)))

    async def begin(self, conn: Any) -> None:
        await conn.execute_command("MULTI")
        await conn.execute_command("RPUSH", self.table, "unconfirmed")

    async def fail(self, conn: Any) -> None:
        await conn.execute_command("no_such_table")

    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        raise NotImplementedError("keys have no quotes")

    async def rows(self, conn: Any) -> int:
        return await conn.llen(self.table)

    async def change(self, conn: Any) -> None:
        await conn.select(5)
        await conn.client_setname(f"{self.client_name}-mine")
        await conn.execute_command("CLIENT", "TRACKING", "ON", "BCAST")

    async def state(self, conn: Any) -> tuple[Any, ...]:
        found = await conn.client_info()
        return found["db"], found["name"], found["flags"]

    async def end_all(self) -> None:
        """The server ends every session of this test's."""
        for client in await self.clients():
            await asyncio.to_thread(self.server.execute, "CLIENT KILL", "ID", client.id)

    def demote(self) -> None:
        """The node becomes a replica, of nobody who answers."""
        self.server.demote()

    def promote(self) -> None:
        """The node is a primary again."""
        self.server.promote()

    async def refused_write(self, conn: Any) -> Exception:
        """The error that a write ends with."""
        with pytest.raises(redis_py.ReadOnlyError) as caught:
            await conn.rpush(self.table, "lost")
        return caught.value
