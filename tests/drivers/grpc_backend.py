"""gRPC, as the contract needs to know it."""

import asyncio
from types import MappingProxyType
from typing import Any

from millpond.driver import Verdict
from millpond.drivers.grpc import GrpcDriver
from millpond.testing.contract import Backend
from tests.drivers.backends import until
from tests.servers.grpc_server import GrpcServer

LEVELS = ("none", "rollback", "full")


class Grpc(Backend):
    """A server of this test's own, or one that nobody else uses meanwhile."""

    nowhere = MappingProxyType({"ssl": "verify-full", "ssl_root_cert": "no-such-place.pem"})
    # A call leaves nothing behind, however it ends.
    after_question = after_cancel = MappingProxyType(dict.fromkeys(LEVELS, Verdict.KEEP))

    def __init__(self, server: GrpcServer, *, takes_ms: int = 0) -> None:
        self.server, self._takes_ms = server, takes_ms

    def driver(self, **options: Any) -> GrpcDriver:
        return GrpcDriver(**{"host": self.server.host, "port": self.server.port, **options})

    async def ask(self, conn: Any, number: int) -> int:
        answer: bytes = await conn.unary_unary("/test.Echo/Say")(f"{self._takes_ms} {number}".encode())
        return int(answer.split()[1])

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        async def slow() -> Any:
            return await conn.unary_unary("/test.Echo/Say")(b"60000 slow")

        async def is_slow() -> bool:
            return int(await conn.unary_unary("/test.Echo/Peak")(b"")) > 0

        task = asyncio.create_task(slow())
        await until(is_slow)
        return task

    async def sessions(self) -> int:
        return self.server.connections()
