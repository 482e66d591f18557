"""A request goes to Redis: lists, streams, channels, keys; a retry does not go there twice."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from tests.gateway.service import Service, hook
from tests.gateway.traffic import Traffic, client_of, eventually, open_client
from tests.servers import RedisServer

REPLAYED = "idempotent-replayed"
DATABASE = 7


def connection(server: RedisServer, **more: Any) -> dict[str, Any]:
    """As connections.json spells it."""
    return {
        "type": "redis",
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "password": server.password,
        "database": DATABASE,
        **more,
    }


def to(path: str, action: str, *, keys: dict[str, Any] | None = None, **module: Any) -> dict[str, Any]:
    more = {} if keys is None else {"idempotency": keys}
    return hook(path, "redis", "cache", module={"action": action, **module}, **more)


@pytest.fixture(scope="module")
def service(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests here."""
    hooks = [
        to("/push", "list_push", key="jobs"),
        to("/push-left", "list_push", key="jobs:{/queue}", value="/job", side="left"),
        to("/stream", "stream_add", key="events", fields={"id": "/id", "at": "$received_at", "all": "$body"}),
        to("/short", "stream_add", key="short", max_length=1),
        to("/publish", "publish", channel="news:{/topic}"),
        to("/heard", "publish", channel="heard", require_receiver=True, keys={}),
        to("/set", "set", key="session:{/user/id}", value="/user", ttl=100),
        to("/claim", "set", key="{claims}:{/id}", if_absent=True, keys={}),
        to("/once", "list_push", key="once", keys={}),
        to("/stream-once", "stream_add", key="stream-once", keys={"ttl": 50, "table": "seen"}),
        to("/wrong", "list_push", key="a-string", keys={}),
        to("/texts", "list_push", key="texts") | {"modules": [
            {"type": "redis", "connection": "texts", "action": "list_push", "key": "texts"}
        ], "idempotency": {}},
    ]  # fmt: skip
    connections = {
        "cache": connection(redis_server),
        "texts": connection(redis_server, decode_responses=True),
    }
    with Service(tmp_path_factory.mktemp("service"), connections, hooks) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.stderr


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Any]:
    """An empty database, with a client in it."""
    with redis.Redis.from_url(redis_server.dsn(database=DATABASE), decode_responses=True) as opened:
        opened.flushdb()
        yield opened


def test_a_list_grows_in_the_order_of_arrival(client: httpx2.Client, store: Any) -> None:
    """The whole body, as it was sent."""
    for number in range(3):
        assert client.post("/push", json={"number": number}).json() == {"stored": 1}

    assert [json.loads(each)["number"] for each in store.lrange("jobs", 0, -1)] == [0, 1, 2]


def test_names_and_values_come_from_the_body(client: httpx2.Client, store: Any) -> None:
    """Texts as they are, anything else as JSON."""
    sent = [("mail", "text"), ("mail", {"a": ["w\u00f6rd"]}), (5, 1.5), (True, False)]
    for queue, job in sent:
        assert client.post("/push-left", json={"queue": queue, "job": job}).status_code == 201

    assert store.lrange("jobs:mail", 0, -1) == ['{"a": ["w\u00f6rd"]}', "text"]
    assert (store.lrange("jobs:5", 0, -1), store.lrange("jobs:true", 0, -1)) == (["1.5"], ["false"])


def test_a_long_number_keeps_its_digits(client: httpx2.Client, store: Any) -> None:
    """As it was sent, alone and inside of something else."""
    number = "12345678901234567.89"
    for job in (number, f"[{number}]"):
        content = f'{{"queue": "exact", "job": {job}}}'
        answer = client.post("/push-left", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 201

    assert store.lrange("jobs:exact", 0, -1) == [f"[{number}]", number]


@pytest.mark.parametrize(
    "body",
    [
        {"job": 1}, {"queue": None, "job": 1}, {"queue": {"a": 1}, "job": 1}, {"queue": "", "job": 1},
        {"queue": "mail"}, {"queue": "mail", "job": None}, {"queue": "\udc80", "job": 1},
        {"queue": "mail", "job": "\udc80"}, [], "text",
    ],
)  # fmt: skip
def test_what_has_no_name_or_no_value_is_the_sender_s_fault(
    client: httpx2.Client, store: Any, body: Any
) -> None:
    """422, and nothing is written under half a name."""
    content = json.dumps(body)

    answer = client.post("/push-left", content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert store.keys() == []


def test_a_stream_gets_an_entry_with_its_fields(client: httpx2.Client, store: Any) -> None:
    """What a pointer does not find is left out."""
    for body in ({"id": 5}, {"other": 1}):
        assert client.post("/stream", json=body).status_code == 201

    first, second = (fields for _, fields in store.xrange("events"))
    assert (first["id"], json.loads(first["all"])) == ("5", {"id": 5})
    assert first["at"].startswith("20")
    assert second.keys() == {"at", "all"}


def test_a_stream_can_be_kept_short(client: httpx2.Client, store: Any) -> None:
    """About: Redis drops whole nodes of its tree, by default of 100 entries."""
    for _ in range(250):
        client.post("/short", json={})

    assert 1 <= store.xlen("short") < 250


def test_listeners_hear_what_is_published(client: httpx2.Client, store: Any) -> None:
    with store.pubsub() as listener:
        listener.subscribe("news:local")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        assert client.post("/publish", json={"topic": "local", "n": 1}).status_code == 201
        message = listener.get_message(timeout=5)

    assert json.loads(message["data"]) == {"topic": "local", "n": 1}
    assert client.post("/publish", json={"topic": "nobody's"}).status_code == 201


def test_a_hook_may_insist_on_being_heard(client: httpx2.Client, store: Any) -> None:
    """503 while nobody listens, and no key is kept: the retry is heard."""
    key = {"Idempotency-Key": "hear"}
    assert client.post("/heard", json={}).status_code == 503
    assert client.post("/heard", json={}, headers=key).status_code == 503

    with store.pubsub() as listener:
        listener.subscribe("heard")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        answers = [client.post("/heard", json={}, headers=key) for _ in range(2)]

    assert [(each.status_code, each.headers.get(REPLAYED)) for each in answers] == [
        (201, None),
        (201, "true"),
    ]


def test_a_key_is_set_for_its_time(client: httpx2.Client, store: Any) -> None:
    for name in ("x", "y"):
        assert client.post("/set", json={"user": {"id": 3, "name": name}}).status_code == 201

    assert json.loads(store.get("session:3")) == {"id": 3, "name": "y"}
    assert 90 < store.ttl("session:3") <= 100


def test_a_key_may_be_taken_by_the_first_only(client: httpx2.Client, store: Any) -> None:
    """409 to the others, but not to the first one's own retry; braces that hold no pointer stay braces."""
    first = client.post("/claim", json={"id": 1, "by": "a"}, headers={"Idempotency-Key": "a"})
    second = client.post("/claim", json={"id": 1, "by": "b"}, headers={"Idempotency-Key": "b"})
    unkeyed = client.post("/claim", json={"id": 1, "by": "c"})
    retry = client.post("/claim", json={"id": 1, "by": "a"}, headers={"Idempotency-Key": "a"})

    assert [each.status_code for each in (first, second, unkeyed, retry)] == [201, 409, 409, 201]
    assert json.loads(store.get("{claims}:1"))["by"] == "a"


@pytest.mark.parametrize("path", ["/once", "/texts"])
def test_a_retry_is_not_written_again(client: httpx2.Client, store: Any, path: str) -> None:
    """Whatever shape the connection gives its answers."""
    sent = [("k", 1), ("k", 1), ("k", 2), ("l", 1)]
    answers = [client.post(path, json={"n": n}, headers={"Idempotency-Key": key}) for key, n in sent]

    assert [each.status_code for each in answers] == [201, 201, 422, 201]
    assert [each.headers.get(REPLAYED) for each in answers] == [None, "true", None, None]
    assert store.llen(path.removeprefix("/")) == 2


async def test_many_retries_at_once_write_one(service: Service, store: Any) -> None:
    async with open_client(32) as client:
        key = {"Idempotency-Key": "at-once"}
        url = f"{service.url}/stream-once"
        answers = await asyncio.gather(*(client.post(url, json={}, headers=key) for _ in range(32)))

    assert {answer.status_code for answer in answers} == {201}
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    assert store.xlen("stream-once") == 1


def test_a_key_is_kept_for_its_time_under_its_name(client: httpx2.Client, store: Any) -> None:
    client.post("/stream-once", json={}, headers={"Idempotency-Key": "k"})

    (name,) = store.keys("seen:*")
    assert 40 < store.ttl(name) <= 50


def test_a_write_that_fails_keeps_no_key(client: httpx2.Client, store: Any, service: Service) -> None:
    """A key of the wrong type is a fault of the set-up; once it is mended the retry is written."""
    store.set("a-string", "planted")
    headers = {"Idempotency-Key": "k"}
    assert client.post("/wrong", json={"x": "planted"}, headers=headers).status_code == 500
    assert store.keys("millpond_idempotency:*") == []
    store.delete("a-string")

    assert client.post("/wrong", json={"x": "planted"}, headers=headers).status_code == 201
    assert store.llen("a-string") == 1
    (line,) = [line for line in service.stderr.splitlines() if "/wrong " in line]
    assert "WRONGTYPE" in line
    assert "planted" not in line


@pytest.mark.parametrize("keys", [None, {}], ids=["plain", "with a key"])
def test_a_server_that_refuses_says_what_to_do_about_it(
    redis_server_factory: Callable[..., RedisServer], workplace: Path, keys: dict[str, Any] | None
) -> None:
    """503 for what passes by itself: no memory, a replica; 500 for what does not, without the values."""
    server = redis_server_factory(unknown=["XADD"])
    hooks = [to("/push", "list_push", key="jobs", keys=keys), to("/stream", "stream_add", key="s", keys=keys)]
    headers = {"Idempotency-Key": "k"}
    pool = {"connect_retries": 0}
    with (
        Service(workplace, {"cache": connection(server, session="any", pool=pool)}, hooks) as service,
        client_of(service.url) as client,
    ):
        unknown = client.post("/stream", json={"x": "planted"}, headers=headers)
        server.execute("CONFIG", "SET", "maxmemory", 1)
        full = client.post("/push", json={"x": "planted"}, headers=headers)
        server.execute("CONFIG", "SET", "maxmemory", 0)
        server.demote()
        replica = client.post("/push", json={"x": "planted"}, headers=headers)
        server.promote()
        mended = client.post("/push", json={"x": "planted"}, headers=headers)

        assert [each.status_code for each in (unknown, full, replica, mended)] == [500, 503, 503, 201]
        assert "planted" not in service.stderr
        assert REPLAYED not in mended.headers
        assert service.stop() == 0


async def test_a_killed_server_costs_no_confirmed_message(
    redis_server_factory: Callable[..., RedisServer], workplace: Path
) -> None:
    """503 while it is away; nothing confirmed is lost, and the service heals by itself."""
    server = redis_server_factory()
    pool = {"max_size": 5, "acquire_timeout": 1.5, "connect_timeout": 1.0, "recovery_timeout": 1.0}
    hooks = [to("/events", "list_push", key="jobs", value="/number")]
    with Service(workplace, {"cache": connection(server, pool=pool)}, hooks) as service:
        traffic = Traffic(f"{service.url}/events")
        done = threading.Event()
        traffic.until = done.is_set
        flow = asyncio.create_task(traffic.flow(clients=8, requests=100_000))
        await eventually(lambda: len(traffic.confirmed) >= 300, "messages before the kill")
        await asyncio.to_thread(server.kill)
        await eventually(lambda: traffic.answers["503"] >= 20, "refusals while it is down")
        await asyncio.to_thread(server.start)
        confirmed = len(traffic.confirmed)
        await eventually(lambda: len(traffic.confirmed) >= confirmed + 300, "messages after the return")
        done.set()
        await flow
        assert await asyncio.to_thread(service.stop) == 0
        assert "Traceback" not in service.stderr

    with redis.Redis.from_url(server.dsn(database=DATABASE), decode_responses=True) as client:
        stored = [int(number) for number in client.lrange("jobs", 0, -1)]
    assert traffic.answers.keys() == {"201", "503"}
    assert len(stored) == len(set(stored))
    assert traffic.confirmed <= set(stored)
