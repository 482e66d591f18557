"""The contract, on this driver: `python -m pytest` in this directory."""

import asyncio
from types import MappingProxyType
from typing import Any

from line_server import LineServer
from millpond_lines import Line, LinesDriver

from millpond.driver import Verdict
from millpond.testing.contract import (
    Backend,
    DriverContract,
    KindContract,
    RemoteContract,
    SessionContract,
    until,
)


class Lines(Backend):
    """What the contract has to know of a server of lines."""

    unreachable = MappingProxyType({"port": 1})
    wrong_secret = MappingProxyType({"password": "not-the-password"})
    after_cancel = MappingProxyType(dict.fromkeys(("none", "rollback", "full"), Verdict.DISCARD))

    def __init__(self, server: LineServer) -> None:
        self.server = server
        self.options = {"host": server.host, "port": server.port, "password": server.password}

    def driver(self, **options: Any) -> LinesDriver:
        return LinesDriver(**{**self.options, **options})

    async def ask(self, conn: Line, number: int) -> int:
        return int(await conn.ask(f"ECHO {number}"))

    async def start_slow(self, conn: Line) -> asyncio.Task[str]:
        task = asyncio.create_task(conn.ask("SLEEP 60"))

        async def began() -> bool:
            return any(session.working_on == "SLEEP" for session in self.server.sessions)

        await until(began)
        return task

    async def sessions(self) -> int:
        return len(self.server.sessions)

    async def end_all(self) -> None:
        self.server.hang_up()

    async def begin(self, conn: Line) -> None:
        if not conn.in_transaction:
            await conn.ask("BEGIN")
        await conn.ask("ADD unconfirmed")

    async def rows(self, conn: Line) -> int:
        return int(await conn.ask("COUNT"))

    async def fail(self, conn: Line) -> None:
        await conn.ask("NONSENSE")

    async def change(self, conn: Line) -> None:
        await conn.ask("SET something")

    async def state(self, conn: Line) -> str:
        return await conn.ask("GET")


class TestLines(DriverContract, SessionContract, RemoteContract, KindContract):
    """The driver keeps every promise."""

    def setup_method(self) -> None:
        self.server = LineServer(password="a-password").__enter__()
        self.backend = Lines(self.server)

    def teardown_method(self) -> None:
        self.server.__exit__()
