"""The contract, on this driver: `python -m pytest` in this directory."""

import asyncio
from pathlib import Path
from types import MappingProxyType
from typing import Any

from line_server import LineServer
from millpond_lines import Line, LinesDriver

from millpond import ConnectionPoolRegistry, create_pool
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


def test_the_kind_works_from_a_configuration_file() -> None:
    """The registry finds it by its name, and resolves what the file leaves to the environment."""

    async def main(server: LineServer) -> str:
        path = Path(__file__).with_name("connections.json")
        environ = {"LINES_PORT": str(server.port), "LINES_PASSWORD": server.password}
        registry = ConnectionPoolRegistry.from_file(path, environ=environ)
        async with registry, registry.acquire("notes") as conn:
            return await conn.ask("ECHO from the file")

    with LineServer(password="a-password") as server:
        assert asyncio.run(main(server)) == "from the file"


def test_the_kind_works_from_a_url() -> None:
    """By its scheme."""

    async def main(server: LineServer) -> str:
        url = f"lines://:{server.password}@{server.host}:{server.port}/main"
        async with create_pool(url) as pool, pool.acquire() as conn:
            return await conn.ask("ECHO from the URL")

    with LineServer(password="a-password") as server:
        assert asyncio.run(main(server)) == "from the URL"
