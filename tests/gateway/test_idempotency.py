"""A request that comes again is stored once: its key is kept where its row is, and when its row is."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.gateway import documented
from tests.gateway.backends import Database, Postgres
from tests.gateway.service import Service, hook
from tests.gateway.traffic import eventually, open_client
from tests.servers import PostgresServer

REPLAYED = "idempotent-replayed"
TIMES = {
    "sqlite": ("0", "4e9"),
    "postgresql": ("now()", "now() + interval '1 hour'"),
    "mysql": ("UTC_TIMESTAMP(6)", "UTC_TIMESTAMP(6) + INTERVAL 1 HOUR"),
}
"""Of a key that is known no more, and of one that is, as each database says it."""


@pytest.fixture(scope="module")
def service(backend: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service; each hook has a table of its own."""
    backend.run(
        """
        CREATE TABLE uniques (number integer PRIMARY KEY, name varchar(20));
        CREATE TABLE halves (body text);
        CREATE TABLE own (body text)
        """
    )
    backend.run(documented.key_table(backend.kind, "sweepings"))
    times = TIMES[backend.kind]
    for number, (hook_path, time) in enumerate(
        [("/over", times[0]), ("/over", times[0]), ("/kept", times[1])]
    ):
        backend.run(f"INSERT INTO sweepings VALUES ('{number}', 'x', '{hook_path}', {time})")

    def to(path: str, table: str, keys: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        module = {"table": table, "create_table": True, **more}
        return hook(path, backend.kind, "events", module=module, idempotency=keys or {})

    uniques = {"number": "/number", "name": "/name"}
    half = to("/half", "halves")
    half["modules"].append({**half["modules"][0], "table": "uniques", "columns": uniques})
    twin = to("/twin", "twins")
    hooks = [
        to("/plain", "plain"),
        to("/other", "plain"),
        to("/required", "required", {"header": "X-GitHub-Delivery", "required": True}),
        to("/pointed", "pointed", {"pointer": "/id"}),
        to("/brief", "brief", {"ttl": 3600}),
        to("/named", "named", {"table": 'odd "keys" %s'}),
        to("/unique", "uniques", columns=uniques),
        to("/swept", "swept", {"table": "sweepings"}),
        to("/own", "own", {"table": "own_keys"}, create_table=False),
        half,
        {**twin, "modules": twin["modules"] * 2},
        *([to("/psycopg", "by_psycopg")] if isinstance(backend, Postgres) else []),
    ]
    connections = {"events": backend.connection(pool_max_size=8)}
    if isinstance(backend, Postgres):
        connections["psycopg"] = backend.connection(library="psycopg", autocommit=False)
        hooks[-1]["modules"][0]["connection"] = "psycopg"
    with Service(tmp_path_factory.mktemp("service"), connections, hooks) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.stderr


def send(client: httpx2.Client, path: str, key: str, body: Any) -> httpx2.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("path", ["/plain", "/named", "/psycopg"])
def test_a_retry_gets_the_first_answer_and_stores_nothing(
    client: httpx2.Client, backend: Database, path: str
) -> None:
    """A header tells the two answers apart; the tables are made at the first request."""
    if path == "/psycopg" and not isinstance(backend, Postgres):
        path = "/plain"
    table = {"/plain": "plain", "/named": "named", "/psycopg": "by_psycopg"}[path]

    retried, other = uuid.uuid4().hex, uuid.uuid4().hex

    answers = [send(client, path, retried, {"number": 7}) for _ in range(3)]
    another = send(client, path, other, {"number": 8})

    assert [answer.status_code for answer in (*answers, another)] == [201] * 4
    assert [answer.headers.get(REPLAYED) for answer in (*answers, another)] == [None, "true", "true", None]
    assert {answer.text for answer in answers} == {'{"stored":1}'}
    assert [number for number in backend.numbers(table) if number in (7, 8)] == [7, 8]
    backend.run(f"DELETE FROM {table}")


def test_a_key_with_another_body_is_refused(client: httpx2.Client, backend: Database) -> None:
    """It is a fault of the sender, which nothing mends; the same key at another hook is another key."""
    assert send(client, "/plain", "body", {"number": 10}).status_code == 201

    refused = send(client, "/plain", "body", {"number": 11})
    elsewhere = send(client, "/other", "body", {"number": 12})

    assert refused.status_code == 422
    assert refused.json()["detail"] == "The key of this request came before with another body."
    assert (elsewhere.status_code, REPLAYED in elsewhere.headers) == (201, False)
    assert {10, 12} == set(backend.numbers("plain")) & {10, 11, 12}


async def test_many_at_once_store_one(service: Service, backend: Database) -> None:
    """All of them are told that it is stored, and each of them after it is."""
    async with open_client(48) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    f"{service.url}/plain",
                    json={"number": 20 + at % 8},
                    headers={"Idempotency-Key": f"once-{at % 8}"},
                )
                for at in range(48)
            )
        )

    assert {answer.status_code for answer in answers} == {201}
    stored = [answer for answer in answers if answer.status_code == 201 and REPLAYED not in answer.headers]
    assert len(stored) == 8
    assert sorted(number for number in backend.numbers("plain") if 20 <= number < 28) == list(range(20, 28))


async def test_when_the_first_of_many_fails_another_one_stores(service: Service, backend: Database) -> None:
    """Those that waited for it do not give up with it: each gets its own answer."""
    backend.run("INSERT INTO uniques (number, name) VALUES (50, 'in the way')")
    rows = [{"number": 50 + at % 2, "name": "x"} for at in range(24)]
    async with open_client(24) as client:
        key = {"Idempotency-Key": "first-fails"}
        answers = await asyncio.gather(
            *(client.post(f"{service.url}/unique", json=row, headers=key) for row in rows)
        )

    # 409 until the other row has the key, 422 from then on.
    clashing, fitting = answers[::2], answers[1::2]
    assert {answer.status_code for answer in clashing} <= {409, 422}
    assert {answer.status_code for answer in fitting} == {201}
    assert sum(REPLAYED not in answer.headers for answer in fitting) == 1
    assert backend.run("SELECT name FROM uniques WHERE number = 51") == [("x",)]


def test_a_request_that_was_refused_leaves_no_key(client: httpx2.Client, backend: Database) -> None:
    """Key and row are there both or not at all: what could not be stored may be sent again, mended or not."""
    row = {"number": 30, "name": "first"}
    assert client.post("/unique", json=row).status_code == 201

    conflict = send(client, "/unique", "clash", {"number": 30, "name": "second"})
    mended = send(client, "/unique", "clash", {"number": 31, "name": "second"})
    again = send(client, "/unique", "clash", {"number": 31, "name": "second"})

    assert [each.status_code for each in (conflict, mended, again)] == [409, 201, 201]
    assert REPLAYED not in mended.headers
    assert again.headers[REPLAYED] == "true"


def test_what_one_module_has_stored_is_not_stored_again_when_another_failed(
    client: httpx2.Client, backend: Database
) -> None:
    """The retry does what is left to do."""
    backend.run("INSERT INTO uniques (number, name) VALUES (40, 'in the way')")
    body = {"number": 40, "name": "half"}
    assert send(client, "/half", "half", body).status_code == 409
    backend.run("DELETE FROM uniques WHERE number = 40")

    retry = send(client, "/half", "half", body)

    assert (retry.status_code, retry.json(), REPLAYED in retry.headers) == (201, {"stored": 2}, False)
    assert send(client, "/half", "half", body).headers[REPLAYED] == "true"
    assert backend.run("SELECT count(*) FROM halves") == [("1",)]


def test_two_modules_that_write_to_one_table_have_keys_of_their_own(
    client: httpx2.Client, backend: Database
) -> None:
    answers = [send(client, "/twin", "twin", {"number": 1}) for _ in range(2)]

    assert [answer.json() for answer in answers] == [{"stored": 2}] * 2
    assert backend.numbers("twins") == [1, 1]


def test_a_key_is_forgotten_after_its_time(client: httpx2.Client, backend: Database) -> None:
    """From then on the request is a new one, whatever it holds."""
    over, _ = TIMES[backend.kind]
    assert send(client, "/brief", "brief", {"number": 1}).status_code == 201
    backend.run(f"UPDATE millpond_idempotency SET expires_at = {over} WHERE hook = '/brief'")

    later = send(client, "/brief", "brief", {"number": 2})

    assert (later.status_code, REPLAYED in later.headers) == (201, False)
    assert backend.numbers("brief") == [1, 2]


def test_a_key_may_come_in_any_header_or_in_the_body(client: httpx2.Client, backend: Database) -> None:
    """GitHub and Stripe have keys of their own; without one a request is new, unless a key is required."""
    github = {"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    by_header = [client.post("/required", json={"number": 1}, headers=github) for _ in range(2)]
    missing = client.post("/required", json={"number": 2})
    by_pointer = [
        client.post("/pointed", json={"id": key, "number": 1}) for key in ("evt_1", "evt_1", 17, 17)
    ]
    unkeyed = [client.post("/pointed", json={"number": 9}) for _ in range(2)]

    assert [REPLAYED in each.headers for each in (*by_header, *by_pointer)] == [False, True] * 3
    assert (missing.status_code, "X-GitHub-Delivery" in missing.json()["detail"]) == (400, True)
    assert [each.status_code for each in unkeyed] == [201, 201]
    assert backend.numbers("required") == [1]
    assert backend.numbers("pointed") == [1, 1, 9, 9]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "w\u00f6rd".encode(), "a\tb"])
def test_what_cannot_be_a_key_is_refused(client: httpx2.Client, key: str | bytes) -> None:
    """Rather than cut, or stored and never found again."""
    content, kind = json.dumps({"number": 99}), ("Content-Type", "application/json")

    answer = client.post("/plain", content=content, headers=[kind, ("Idempotency-Key", key)])  # type: ignore[list-item]

    assert answer.status_code == 400


def test_two_keys_are_none(client: httpx2.Client) -> None:
    headers = [("Content-Type", "application/json"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    assert client.post("/plain", content="{}", headers=headers).status_code == 400


@pytest.mark.parametrize("body", [{"id": ""}, {"id": [1]}, {"id": True}, {"id": 1.5}, {"id": "a b"}])
def test_what_cannot_be_a_key_in_a_body_is_refused(client: httpx2.Client, body: dict[str, Any]) -> None:
    assert client.post("/pointed", json=body).status_code == 400


def test_expired_keys_are_swept_away(client: httpx2.Client, backend: Database) -> None:
    """With a hook's first request, and about once a minute from then on: the table does not grow."""
    assert send(client, "/swept", "new", {"number": 1}).status_code == 201

    assert backend.run("SELECT hook FROM sweepings ORDER BY hook") == [("/kept",), ("/swept",)]


def test_nothing_is_stored_while_there_is_no_table_for_keys(
    client: httpx2.Client, service: Service, backend: Database
) -> None:
    """Without `create_table` it is the operator's to make; the log names what is missing."""
    assert send(client, "/own", "k", {"number": 1}).status_code == 500
    assert "own_keys" in service.stderr
    assert backend.run("SELECT count(*) FROM own") == [("0",)]

    assert client.post("/own", json={"number": 2}).status_code == 201


async def test_whoever_tries_again_until_it_is_stored_stores_once(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """The database is killed in the middle of traffic: what was stored without an answer is not doubled."""
    server = postgres_server_factory()
    store = Postgres(server, server.database)
    pool = {"max_size": 5, "acquire_timeout": 1.5, "connect_timeout": 1.0, "recovery_timeout": 1.0}
    hooks = [hook("/events", "postgresql", "events", module={"create_table": True}, idempotency={})]
    numbers, refused, stored = count(), 0, 0
    done = asyncio.Event()

    async def send_on(client: httpx2.AsyncClient) -> None:
        nonlocal refused, stored
        while not done.is_set():
            number = next(numbers)
            sending = partial(
                client.post, json={"number": number}, headers={"Idempotency-Key": f"n-{number}"}
            )
            while (answer := await sending("/events")).status_code == 503:
                refused += 1
            assert answer.status_code == 201
            stored += 1

    with Service(workplace, {"events": store.connection(pool=pool)}, hooks) as service:
        async with open_client(12) as client, asyncio.TaskGroup() as tasks:
            client.base_url = service.url
            for _ in range(12):
                tasks.create_task(send_on(client))
            await eventually(lambda: stored >= 300, "rows before the kill")
            await asyncio.to_thread(server.kill)
            await eventually(lambda: refused >= 24, "refusals while it is down")
            await asyncio.to_thread(server.start)
            before = stored
            await eventually(lambda: stored >= before + 300, "rows after the return")
            done.set()
        assert await asyncio.to_thread(service.stop) == 0

    assert sorted(store.numbers()) == list(range(stored))
