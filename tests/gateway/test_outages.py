"""The database dies, freezes, comes back: 503 meanwhile, no hang, no restart, nothing confirmed is lost."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.gateway.backends import Postgres
from tests.gateway.service import Service, hook
from tests.gateway.traffic import Traffic, client_of, eventually
from tests.servers import PostgresServer

ACQUIRE = 1.5
STATEMENT = 1.5
MARGIN = 2.0

TABLE = "CREATE TABLE webhook_events (id bigserial, body jsonb NOT NULL)"
HOOKS = [hook("/events", "postgresql", "events", module={"timeout": STATEMENT})]


def connections_to(server: PostgresServer) -> dict[str, object]:
    pool = {"max_size": 5, "acquire_timeout": ACQUIRE, "connect_timeout": 1.0, "recovery_timeout": 1.0}
    return {"events": Postgres(server, server.database).connection(pool=pool)}


def assert_refusals_say_when_to_come_back(traffic: Traffic) -> None:
    """Each 503 has a Retry-After in whole seconds, and says nothing else."""
    for answer in traffic.refusals:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["detail"] == "Not available at the moment; try again later."


async def test_a_killed_database_costs_no_confirmed_row(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """Killed in the middle of traffic and started again; the service heals by itself."""
    server = postgres_server_factory()
    store = Postgres(server, server.database)
    store.run(TABLE)
    with Service(workplace, connections_to(server), HOOKS) as service, client_of(service.url) as client:
        traffic = Traffic(f"{service.url}/events")
        done = False
        traffic.until = lambda: done
        flow = asyncio.create_task(traffic.flow(clients=12, requests=100_000))
        await eventually(lambda: len(traffic.confirmed) >= 500, "rows before the kill")

        await asyncio.to_thread(server.kill)
        await eventually(lambda: traffic.answers["503"] >= 100, "refusals while it is down")
        assert client.get("/health").json()["status"] == "degraded"
        assert client.get("/health/db").status_code == 503

        await asyncio.to_thread(server.start)
        confirmed_at_return = len(traffic.confirmed)
        await eventually(lambda: len(traffic.confirmed) >= confirmed_at_return + 500, "rows after the return")
        done = True
        await flow
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/health/db").status_code == 200
        assert await asyncio.to_thread(service.stop) == 0

    stored = store.numbers()
    assert traffic.answers.keys() == {"201", "503"}
    assert_refusals_say_when_to_come_back(traffic)
    assert traffic.slowest < max(ACQUIRE, STATEMENT) + MARGIN
    assert len(stored) == len(set(stored))
    assert traffic.confirmed <= set(stored)
    # Only what was in the middle of its statement at the kill can be stored without a 2xx: one a connection.
    assert len(set(stored) - traffic.confirmed) <= 5
    assert server.password not in service.stdout + service.stderr
    assert "Traceback" not in service.stderr


async def test_a_frozen_database_keeps_nobody_waiting(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """Connections stay open and nobody answers: every request ends in time all the same."""
    server = postgres_server_factory()
    store = Postgres(server, server.database)
    store.run(TABLE)
    with Service(workplace, connections_to(server), HOOKS) as service:
        traffic = Traffic(f"{service.url}/events")
        done = False
        traffic.until = lambda: done
        flow = asyncio.create_task(traffic.flow(clients=12, requests=100_000))
        await eventually(lambda: len(traffic.confirmed) >= 200, "rows before the freeze")

        await asyncio.to_thread(server.freeze)
        frozen_at = time.monotonic()
        await eventually(lambda: traffic.answers["503"] >= 24, "refusals while it is frozen")
        await eventually(lambda: time.monotonic() > frozen_at + 3.0, "three seconds of frost")
        server.thaw()
        confirmed_at_thaw = len(traffic.confirmed)
        await eventually(lambda: len(traffic.confirmed) >= confirmed_at_thaw + 200, "rows after the thaw")
        done = True
        await flow
        assert await asyncio.to_thread(service.stop) == 0

    stored = store.numbers()
    assert traffic.answers.keys() == {"201", "503"}
    assert_refusals_say_when_to_come_back(traffic)
    assert traffic.slowest < ACQUIRE + STATEMENT + MARGIN
    assert len(stored) == len(set(stored))
    assert traffic.confirmed <= set(stored)
    # A statement that was given up may still be carried out after the thaw, but not more than were refused.
    assert len(set(stored) - traffic.confirmed) <= traffic.failed


async def test_a_service_starts_without_its_database_and_heals(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """It says so in one line, answers 503 until the database is there, and 201 from then on."""
    server = postgres_server_factory()
    Postgres(server, server.database).run(TABLE)
    server.stop()
    with Service(workplace, connections_to(server), HOOKS) as service, client_of(service.url) as client:
        (line,) = [line for line in service.stderr.splitlines() if "serving without it" in line]
        assert " WARNING " in line
        assert "connections.json: events" in line

        await eventually(lambda: client.get("/health").json()["status"] == "degraded", "bad health")
        refused = client.post("/events", json={"number": 1})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1

        await asyncio.to_thread(server.start)
        await eventually(lambda: client.post("/events", json={"number": 2}).status_code == 201, "a row")
        assert await asyncio.to_thread(service.stop) == 0


async def test_a_service_ends_although_its_database_is_frozen(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """Requests under way are answered, and the pools are closed without the database's help."""
    server = postgres_server_factory()
    store = Postgres(server, server.database)
    store.run(TABLE)
    arguments = ["--shutdown-timeout", "8"]
    with Service(workplace, connections_to(server), HOOKS, arguments=arguments) as service:
        traffic = Traffic(f"{service.url}/events")
        await traffic.flow(clients=4, requests=50)
        server.freeze()
        flow = asyncio.create_task(traffic.flow(clients=8, requests=8))
        with client_of(service.url) as client:
            await eventually(lambda: client.get("/health").json()["pools"]["events"]["busy"] > 0, "leases")
        started = time.monotonic()
        status = await asyncio.to_thread(service.stop)
        took = time.monotonic() - started
        await flow
        server.thaw()

    assert status == 0
    assert took < 11
    assert traffic.answers.keys() <= {"201", "503"}
    assert "Traceback" not in service.stderr
