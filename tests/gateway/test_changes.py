"""What the minute of changes shows for PostgreSQL, for each of the others in a few seconds; other formats."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import httpx2
import pytest
import redis as redis_py

from tests.gateway.backends import MariaDB, Sqlite
from tests.gateway.service import Service, hook
from tests.gateway.test_rabbitmq import connection as to_rabbitmq
from tests.gateway.test_redis import DATABASE
from tests.gateway.test_redis import connection as to_redis
from tests.gateway.traffic import Traffic, eventually
from tests.servers import RabbitMQServer, RedisServer

TOKEN = "planted-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
ENVIRON = {"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}
ROWS = 150
"""How many requests are confirmed before the change, and after it."""
QUEUE = "gateway-changes"
CHANGED = "another-secret"


@dataclass
class Backend:
    """A backend that is about to change.

    Attributes:
        connection: as connections.json spells it before.
        module: what the hook does.
        change: changes the server where that is needed, and returns the connection as it is then.
        numbers: of the requests that are stored, wherever they went.
    """

    connection: dict[str, Any]
    module: dict[str, Any]
    change: Callable[[], dict[str, Any]]
    numbers: Callable[[], Awaitable[list[int]]]


@pytest.fixture
def mysql_password(mariadb_backend: MariaDB) -> Backend:
    """A role of its own whose password changes."""
    server, name = mariadb_backend.server, mariadb_backend.database
    server.execute(
        f"CREATE USER {name}@127.0.0.1 IDENTIFIED BY 'first-secret'; "
        f"GRANT ALL ON {name}.* TO {name}@127.0.0.1"
    )
    connection = mariadb_backend.connection(user=name, password="first-secret", pool={"max_size": 4})

    def change() -> dict[str, Any]:
        server.execute(f"ALTER USER {name}@127.0.0.1 IDENTIFIED BY '{CHANGED}'")
        return {**connection, "password": CHANGED}

    async def numbers() -> list[int]:
        return await asyncio.to_thread(mariadb_backend.numbers)

    return Backend(connection, {"type": "mysql", "create_table": True}, change, numbers)


def redis_numbers(*servers: RedisServer) -> Callable[[], Awaitable[list[int]]]:
    """What is in the lists of these servers."""

    async def numbers() -> list[int]:
        found: list[int] = []
        for server in servers:
            with redis_py.Redis(
                port=server.port, username=server.user, password=server.password, db=DATABASE
            ) as one:
                found += [json.loads(each)["number"] for each in one.lrange("changes", 0, -1)]
        return found

    return numbers


REDIS = {"type": "redis", "action": "list_push", "key": "changes"}


@pytest.fixture
def redis_password(redis_server_factory: Callable[..., RedisServer]) -> Backend:
    """A user of its own whose password changes."""
    server = redis_server_factory()
    server.execute("ACL", "SETUSER", "miller", "on", ">first-secret", "~*", "&*", "+@all")
    connection = to_redis(server, user="miller", password="first-secret", pool={"max_size": 4})

    def change() -> dict[str, Any]:
        server.execute("ACL", "SETUSER", "miller", "resetpass", f">{CHANGED}")
        return {**connection, "password": CHANGED}

    return Backend(connection, REDIS, change, redis_numbers(server))


@pytest.fixture
def redis_move(redis_server_factory: Callable[..., RedisServer]) -> Backend:
    """Another server."""
    old, new = redis_server_factory(), redis_server_factory()
    pool = {"max_size": 4}
    return Backend(to_redis(old, pool=pool), REDIS, lambda: to_redis(new, pool=pool), redis_numbers(old, new))


@pytest.fixture
def rabbitmq_move(rabbitmq_server: RabbitMQServer) -> Any:
    """Another virtual host, which is another place on the same server."""
    hosts = (f"{QUEUE}-old", f"{QUEUE}-new")
    for host in hosts:
        rabbitmq_server.add_vhost(host)

    async def numbers() -> list[int]:
        found: list[int] = []
        for host in hosts:
            async with await aio_pika.connect(rabbitmq_server.dsn(vhost=host)) as opened:
                queue = await (await opened.channel()).get_queue(QUEUE)
                while (message := await queue.get(no_ack=True, fail=False)) is not None:
                    found.append(json.loads(message.body)["number"])
        return found

    module = {"type": "rabbitmq", "queue": QUEUE, "create_queue": True}
    old, new = (to_rabbitmq(rabbitmq_server, vhost=host) for host in hosts)
    yield Backend(old, module, lambda: new, numbers)
    for host in hosts:
        rabbitmq_server.delete_vhost(host)


@pytest.mark.parametrize("what", ["mysql_password", "redis_password", "redis_move", "rabbitmq_move"])
async def test_a_change_of_the_backend_in_traffic_loses_no_request(
    request: pytest.FixtureRequest, workplace: Path, what: str
) -> None:
    """All are answered 2xx, all are stored once, and the old version ends."""
    backend: Backend = request.getfixturevalue(what)
    module = {key: value for key, value in backend.module.items() if key != "type"}
    hooks = [hook("/events", backend.module["type"], "events", module=module, idempotency={"required": True})]
    with Service(workplace, {"events": backend.connection}, hooks, environ=ENVIRON) as service:
        traffic = Traffic(f"{service.url}/events")
        done = False
        traffic.until = lambda: done
        flow = asyncio.create_task(traffic.flow(clients=8, requests=100_000))
        await eventually(lambda: len(traffic.confirmed) >= ROWS, "rows before the change")

        changed = await asyncio.to_thread(backend.change)
        (workplace / "connections.json").write_text(json.dumps({"events": changed}))
        async with httpx2.AsyncClient(headers=ADMIN, base_url=service.url, timeout=30) as admin:
            said = (await admin.post("/admin/reload-config")).json()
            assert said["connections"]["changed"] == ["events"], said
            before = len(traffic.confirmed)
            await eventually(lambda: len(traffic.confirmed) >= before + ROWS, "rows after the change")
            done = True
            await flow

            async def is_alone() -> bool:
                status = (await admin.get("/admin/status")).json()
                return not status["deprecated"] and [each["version"] for each in status["active"]] == [2]

            await eventually(is_alone, "the end of the old version")
        stored = await backend.numbers()
        assert await asyncio.to_thread(service.stop) == 0
    assert traffic.failed == 0, traffic.answers
    assert len(stored) == len(set(stored))
    assert set(stored) == traffic.confirmed
    assert CHANGED not in service.stdout + service.stderr


TOML = """\
[events]
type = "sqlite"
database = "{database}"

[events.pool]
reset = "{reset}"
"""
YAML = """\
webhooks:
  - path: {path}
    idempotency: {{required: true}}
    modules:
      - type: sqlite
        connection: events
        create_table: true
"""
TOML_HOOKS = """\
[[webhooks]]
path = "{path}"
idempotency = {{required = true}}

[[webhooks.modules]]
type = "sqlite"
connection = "events"
create_table = true
"""
YAML_CONNECTIONS = """\
events:
  type: sqlite
  database: {database}
  pool: {{reset: {reset}}}
"""


@pytest.mark.parametrize(
    ("names", "connections", "hooks"),
    [
        (("connections.toml", "webhooks.yaml"), TOML, YAML),
        (("connections.yml", "webhooks.toml"), YAML_CONNECTIONS, TOML_HOOKS),
    ],
    ids=["toml and yaml", "yml and toml"],
)
async def test_files_in_toml_and_yaml_are_taken_over_while_requests_are_served(
    sqlite_backend: Sqlite, workplace: Path, names: tuple[str, str], connections: str, hooks: str
) -> None:
    """Connections and webhooks; a broken one changes nothing."""
    watched = {"CONFIG_FILE_WATCHING_ENABLED": "true", "CONFIG_RELOAD_DEBOUNCE_SECONDS": "0.2"}
    service = Service(workplace, {}, environ={**ENVIRON, **watched}, names=names)

    def write(reset: str, path: str) -> None:
        texts = (
            connections.format(database=sqlite_backend.path, reset=reset), hooks.format(path=path),
        )  # fmt: skip
        for name, text in zip(names, texts, strict=True):
            (workplace / name).write_text(text)

    def post(path: str) -> int:
        headers = {"Idempotency-Key": "once"}
        return httpx2.post(f"{service.url}{path}", json={"number": 1}, headers=headers).status_code

    def status(what: str) -> Any:
        return httpx2.get(f"{service.url}/admin/{what}", headers=ADMIN).json()

    write("full", "/before")
    with service:
        assert post("/before") == 201
        write("none", "/after")
        await eventually(lambda: post("/after") == 201, "the new hook")
        assert post("/before") == 404
        assert [each["version"] for each in status("status")["active"]] == [2]
        for name in names:
            right = (workplace / name).read_text()
            (workplace / name).write_text(right + "[[[")
            await eventually(lambda: not status("config-status")["last"]["ok"], "a failure")
            assert status("config-status")["last"]["problems"][0].startswith(f"{name}: line ")
            (workplace / name).write_text(right)
            await eventually(lambda: status("config-status")["last"]["ok"], "it is mended")
        assert post("/after") == 201
