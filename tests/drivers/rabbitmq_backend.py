"""RabbitMQ, as driver tests need to know it."""

import asyncio
from collections.abc import Mapping
from itertools import count
from types import MappingProxyType
from typing import Any

import aio_pika
from aio_pika.exceptions import DeliveryError

from millpond.driver import Verdict
from millpond.drivers.rabbitmq import RabbitMQDriver
from tests.drivers.backends import WRONG_SECRET, Backend, until
from tests.servers import AMQPChannel, RabbitMQServer, free_port

_numbers = count(1)


async def _taken(message: Any) -> None:
    """A consumer that acknowledges nothing."""


_SETTLE_S = 2.0


class RabbitMQ(Backend):
    """Queues of its own on the private server; sessions are channels.

    The contract's "open transaction" is here what consumers have for one: a message that is taken and not
    acknowledged. Its "rows" are the messages that are so missing from the queue.
    """

    nowhere = MappingProxyType({"vhost": "no-such-place"})
    after_question = dict.fromkeys(("none", "rollback", "full"), Verdict.KEEP)
    after_failure = after_question
    # A publish without its confirm.
    after_cancel = dict.fromkeys(("none", "rollback", "full"), Verdict.DISCARD)
    after_begin = MappingProxyType(
        {"none": Verdict.DISCARD, "rollback": Verdict.RESET, "full": Verdict.RESET}
    )

    wrong_secret = WRONG_SECRET

    errors = (aio_pika.exceptions.AMQPError,)

    def __init__(self, server: RabbitMQServer, *, options: Mapping[str, Any] | None = None) -> None:
        self.server, self._more = server, options or {}
        self.prefix = f"driver-test-{next(_numbers)}"
        self.table = f"{self.prefix}.notes"
        self.full = f"{self.prefix}.full"
        self.stuck = f"{self.prefix}.stuck"
        self.unreachable = {"port": free_port()}
        server.declare(self.table, messages=1)
        server.declare(self.full, **{"x-max-length": 0, "x-overflow": '<<"reject-publish">>'})
        server.declare(self.stuck)
        server.suspend_queue(self.stuck)

    def tidy(self) -> None:
        """Take the queues away."""
        self.server.resume_queue(self.stuck)
        self.server.delete_queues(self.prefix)

    @property
    def options(self) -> dict[str, Any]:
        """What leads to it."""
        return {
            "host": self.server.host, "port": self.server.port, "user": self.server.user,
            "password": self.server.password, "connection_name": self.prefix, **self._more,
        }  # fmt: skip

    def driver(self, **options: Any) -> RabbitMQDriver:
        return RabbitMQDriver(**{**self.options, **options})

    async def channels(self) -> list[AMQPChannel]:
        """The channels of this test's, as the server sees them."""

        def seen() -> list[AMQPChannel]:
            ours = {each.pid for each in self.server.connections() if each.name == self.prefix}
            return [each for each in self.server.channels() if each.connection in ours]

        return await asyncio.to_thread(seen)

    async def connections(self) -> int:
        """How many connections of this test's the server sees."""
        found = await asyncio.to_thread(self.server.connections)
        return sum(each.name == self.prefix for each in found)

    async def sessions(self) -> int:
        """Its channels; and a connection without one, which should not be, counts too."""
        channels = len(await self.channels())
        return channels or await self.connections()

    async def channel(self, conn: Any) -> AMQPChannel:
        """One channel, as the server sees it; the only one with its number."""
        (found,) = [each for each in await self.channels() if each.number == conn.number]
        return found

    async def publish(self, conn: Any, body: str, queue: str) -> Any:
        """Publish and wait for the confirm."""
        return await conn.default_exchange.publish(aio_pika.Message(body.encode()), routing_key=queue)

    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.publish(conn, "slow", self.stuck))
        await until(self.is_slow)
        return task

    async def is_slow(self) -> bool:
        """Whether the server owes a channel of this test's a confirm."""
        return any(each.unconfirmed for each in await self.channels())

    async def ask(self, conn: Any, number: int) -> int:
        declared = await conn.declare_queue(f"{self.prefix}.answer.{number}", arguments={"x-expires": 1_000})
        return int(declared.name.rpartition(".")[2])

    async def begin(self, conn: Any) -> None:
        lane = await conn.get_underlay_channel()
        await lane.basic_get(self.table)

    async def fail(self, conn: Any) -> None:
        try:
            await self.publish(conn, "one too many", self.full)
        except DeliveryError as error:
            raise ValueError("the queue is full") from error

    async def make_table(self, conn: Any, quoted_name: str) -> list[str]:
        raise NotImplementedError("queues have no quotes")

    async def rows(self, conn: Any) -> int:
        """How many messages are away from the queue, once the server has closed what it was told to."""
        declared = await conn.get_queue(self.table, ensure=True)
        missing = 1 - declared.declaration_result.message_count
        if missing and not conn.lane.unacknowledged:
            await until(self.is_whole, within=_SETTLE_S)
            return 0
        return missing

    async def is_whole(self) -> bool:
        """Whether the message is back."""
        return await asyncio.to_thread(self.server.messages, self.table) == 1

    async def change(self, conn: Any) -> None:
        await conn.set_qos(prefetch_count=7)
        await conn.set_qos(prefetch_count=9, global_=True)
        conn.return_callbacks.add(print)
        queue = await conn.declare_queue(f"{self.prefix}.mine")
        await queue.consume(_taken)

    async def state(self, conn: Any) -> tuple[Any, ...]:
        seen = await self.channel(conn)
        return (
            seen.prefetch, seen.global_prefetch, seen.consumers, seen.unacknowledged,
            seen.is_transactional, seen.is_confirming, len(conn.return_callbacks), len(conn.close_callbacks),
        )  # fmt: skip

    async def end_all(self) -> None:
        """The server ends every connection of this test's."""
        for each in await asyncio.to_thread(self.server.connections):
            if each.name == self.prefix:
                await asyncio.to_thread(self.server.close_connection, each)
