"""A request becomes a message: confirmed and in a queue before the answer, or an error that says so."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import httpx2
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from tests.gateway.service import Service, hook
from tests.gateway.traffic import Traffic, eventually
from tests.servers import RabbitMQServer

PREFIX = "gateway"


def connection(server: RabbitMQServer, **more: Any) -> dict[str, Any]:
    """As connections.json spells it."""
    return {
        "type": "rabbitmq",
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "pool_max_size": 1,
        **more,
    }


def to(path: str, connection: str = "broker", *, keys: bool = False, **module: Any) -> dict[str, Any]:
    return hook(path, "rabbitmq", connection, module=module, **({"idempotency": {}} if keys else {}))


@pytest.fixture(scope="module")
def service(rabbitmq_server: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests here."""
    rabbitmq_server.declare(f"{PREFIX}.full", **{"x-max-length": 0, "x-overflow": '<<"reject-publish">>'})
    rabbitmq_server.declare(f"{PREFIX}.stuck")
    rabbitmq_server.suspend_queue(f"{PREFIX}.stuck")
    hooks = [
        to("/made", queue=f"{PREFIX}.made.{{/name}}", create_queue=True, keys=True),
        to("/after", queue=f"{PREFIX}.made.after", value="/value", create_queue=True),
        to("/value", queue=f"{PREFIX}.made.value", value="/value", create_queue=True, persistent=False),
        to("/topic", exchange="amq.topic", routing_key=f"{PREFIX}.{{/topic}}"),
        to("/fanout", exchange="amq.fanout"),
        to("/any", exchange="amq.fanout", mandatory=False),
        to("/missing", queue=f"{PREFIX}.nowhere"),
        to("/no-exchange", exchange="no.such.exchange"),
        to("/full", queue=f"{PREFIX}.full"),
        to("/stuck", queue=f"{PREFIX}.stuck", timeout=0.5),
        to("/unconfirmed", "unconfirmed", queue=f"{PREFIX}.nowhere"),
    ]
    connections = {
        "broker": connection(rabbitmq_server),
        "unconfirmed": connection(rabbitmq_server, publisher_confirms=False),
    }
    with Service(tmp_path_factory.mktemp("service"), connections, hooks) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.stderr
        assert "planted" not in running.stderr
    rabbitmq_server.resume_queue(f"{PREFIX}.stuck")
    rabbitmq_server.delete_queues(PREFIX)


@pytest.fixture
async def channel(rabbitmq_server: RabbitMQServer) -> AsyncIterator[AbstractChannel]:
    """A channel to look into queues."""
    async with await aio_pika.connect(rabbitmq_server.dsn()) as opened:
        yield await opened.channel()


async def messages(channel: AbstractChannel, queue: str, count: int) -> list[AbstractIncomingMessage]:
    """Take so many messages out of a queue that is there, and no more are in it."""
    source = await channel.get_queue(f"{PREFIX}.{queue}")
    taken = [await source.get(no_ack=True) for _ in range(count)]
    assert await source.get(no_ack=True, fail=False) is None
    return taken


async def test_a_request_is_a_message_in_its_queue(client: httpx2.Client, channel: AbstractChannel) -> None:
    """The queue is made with the first; it and its messages outlive a restart of the server."""
    for number in range(3):
        assert client.post("/made", json={"name": "jobs", "number": number}).json() == {"stored": 1}

    await channel.declare_queue(f"{PREFIX}.made.jobs", durable=True)  # fails if it is another kind of queue
    taken = await messages(channel, "made.jobs", 3)
    assert [json.loads(each.body)["number"] for each in taken] == [0, 1, 2]
    assert {(each.content_type, each.delivery_mode) for each in taken} == {("application/json", 2)}


async def test_a_value_can_be_the_message(client: httpx2.Client, channel: AbstractChannel) -> None:
    """A text is one as it stands."""
    for value in ("w\u00f6rd", {"a": 1}):
        assert client.post("/value", json={"value": value}).status_code == 201

    text, document = await messages(channel, "made.value", 2)
    assert (text.body.decode(), text.content_type, text.delivery_mode) == ("w\u00f6rd", "text/plain", 1)
    assert (document.body, document.content_type) == (b'{"a": 1}', "application/json")


async def test_an_exchange_routes_by_what_the_body_says(
    client: httpx2.Client, channel: AbstractChannel
) -> None:
    """To every queue that asked for it."""
    for name in ("a", "b"):
        queue = await channel.declare_queue(f"{PREFIX}.topic.{name}")
        await queue.bind("amq.topic", f"{PREFIX}.orders.*")
        await queue.bind("amq.fanout")

    assert client.post("/topic", json={"topic": "orders.new"}).status_code == 201
    assert client.post("/fanout", json={"all": 1}).status_code == 201
    for name in ("a", "b"):
        assert [each.routing_key for each in await messages(channel, f"topic.{name}", 2)] == [
            f"{PREFIX}.orders.new",
            "",
        ]
        await channel.queue_delete(f"{PREFIX}.topic.{name}")


async def test_a_key_becomes_the_message_s_id_and_no_more(
    client: httpx2.Client, channel: AbstractChannel
) -> None:
    """A retry is published again, and does not claim anything else; who consumes can tell."""
    answers = [
        client.post("/made", json={"name": "keyed"}, headers={"Idempotency-Key": "k-1"}) for _ in range(2)
    ]

    assert [(each.status_code, "idempotent-replayed" in each.headers) for each in answers] == [
        (201, False)
    ] * 2
    assert [each.message_id for each in await messages(channel, "made.keyed", 2)] == ["k-1", "k-1"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/missing", {}, 500),
        ("/no-exchange", {}, 500),
        ("/unconfirmed", {}, 500),
        ("/fanout", {}, 500),
        ("/any", {}, 201),
        ("/topic", {"topic": "nobody.asked"}, 422),
        ("/topic", {}, 422),
        ("/topic", {"topic": "planted" * 50}, 422),
        ("/topic", {"topic": "\udc80"}, 422),
        ("/made", {"name": "w\u00f6rd;planted"}, 422),
        ("/value", {"other": 1}, 422),
        ("/full", {}, 503),
        ("/stuck", {}, 503),
    ],
)
def test_what_no_queue_has_confirmed_is_not_called_stored(
    client: httpx2.Client, path: str, body: dict[str, Any], status: int
) -> None:
    """500 where the set-up is wrong, 422 where the sender chose a name that leads nowhere, 503 for later."""
    content = json.dumps({**body, "secret": "planted"})

    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code == status
    assert client.post("/after", json={"value": 1}).status_code == 201


@pytest.fixture
def server() -> Iterator[RabbitMQServer]:
    """One to kill."""
    with RabbitMQServer() as started:
        yield started


async def test_a_killed_server_costs_no_confirmed_message(server: RabbitMQServer, workplace: Path) -> None:
    """503 while it is away; durable queue and persistent messages are there when it is back."""
    pool = {"acquire_timeout": 1.5, "connect_timeout": 1.0, "recovery_timeout": 1.0}
    hooks = [to("/events", queue=f"{PREFIX}.kept", create_queue=True, timeout=2.0)]
    with Service(workplace, {"broker": connection(server, pool=pool)}, hooks) as service:
        traffic = Traffic(f"{service.url}/events")
        done = threading.Event()
        traffic.until = done.is_set
        flow = asyncio.create_task(traffic.flow(clients=8, requests=100_000))
        await eventually(lambda: len(traffic.confirmed) >= 200, "messages before the kill")
        await asyncio.to_thread(server.flush)  # that there is such a queue; the messages need no help
        await asyncio.to_thread(server.kill)
        await eventually(lambda: traffic.answers["503"] >= 20, "refusals while it is down")
        await asyncio.to_thread(server.start)
        confirmed = len(traffic.confirmed)
        await eventually(lambda: len(traffic.confirmed) >= confirmed + 100, "messages after the return")
        done.set()
        await flow
        assert await asyncio.to_thread(service.stop) == 0
        assert "Traceback" not in service.stderr

    async with await aio_pika.connect(server.dsn()) as opened:
        queue = await (await opened.channel()).get_queue(f"{PREFIX}.kept")
        stored = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            stored.append(json.loads(message.body)["number"])
    assert traffic.answers.keys() == {"201", "503"}
    assert traffic.confirmed <= set(stored)
    assert len(stored) == len(set(stored))
