"""PostgreSQL's own column types: the server converts, so that a column gets what it holds."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.gateway.backends import Postgres
from tests.gateway.service import Service, hook
from tests.gateway.traffic import client_of

COLUMNS = {
    "n_int": "integer", "n_big": "bigint", "n_num": "numeric", "n_float": "double precision",
    "yes": "boolean", "words": "text", "short": "varchar(5)", "day": "date", "at": "timestamptz",
    "id": "uuid", "tags": "text[]", "doc": "json", "docb": "jsonb", "bits": "bytea", "ip": "inet",
    "mood": "mood",
}  # fmt: skip


LIBRARIES = {
    "asyncpg": {},
    "psycopg": {"library": "psycopg"},
    "psycopg, committing by hand": {"library": "psycopg", "autocommit": False},
}


@pytest.fixture(scope="module", params=LIBRARIES.values(), ids=LIBRARIES)
def client(
    request: pytest.FixtureRequest, postgres_backend: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    """One service with a hook whose columns are of many types, with each library in turn."""
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    postgres_backend.run(
        f"""
        DROP SCHEMA IF EXISTS audit CASCADE;
        DROP SCHEMA public CASCADE;
        CREATE SCHEMA public;
        CREATE SCHEMA audit;
        CREATE TYPE mood AS ENUM ('calm', 'busy');
        CREATE TABLE audit.typed (serial bigserial, {columns}, extra text DEFAULT 'default');
        CREATE TABLE deferred (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TABLE swallowing (body jsonb);
        CREATE TRIGGER swallow BEFORE INSERT ON swallowing FOR EACH ROW EXECUTE FUNCTION nothing();
        CREATE TABLE bodies (doc json, docb jsonb, words text);
        CREATE TABLE counts (n integer);
        CREATE TABLE forbidden (body jsonb);
        REVOKE ALL ON forbidden FROM PUBLIC, {postgres_backend.server.user};
        """
    )

    def to(path: str, table: str, **more: Any) -> dict[str, Any]:
        return hook(path, "postgresql", "events", module={"table": table, **more})

    hooks = [
        to("/typed", "audit.typed", columns={name: f"/{name}" for name in COLUMNS}),
        to("/deferred", "deferred", columns={"id": "/id"}),
        to("/swallowing", "swallowing"),
        to("/bodies", "bodies", columns=dict.fromkeys(("doc", "docb", "words"), "$body")),
        to("/counts", "counts", columns={"n": "$body"}),
        to("/forbidden", "forbidden"),
        to("/created", "audit.made_here", create_table=True),
    ]
    directory = tmp_path_factory.mktemp("service")
    with Service(directory, {"events": postgres_backend.connection(**request.param)}, hooks) as running:
        with client_of(running.url) as opened:
            yield opened
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("n_int", 7, "7"),
        ("n_int", "8", "8"),
        ("n_big", 2**62, str(2**62)),
        ("n_num", 1.1, "1.1"),
        ("n_float", 0.1, "0.1"),
        ("yes", True, "t"),
        ("words", "text", "text"),
        ("words", 5, "5"),
        ("words", {"a": [1]}, '{"a": [1]}'),
        ("day", "2026-11-21", "2026-11-21"),
        ("at", "2026-11-21T10:00:00Z", "2026-11-21 10:00:00+00"),
        ("id", "7a3b6f0e-2f8b-4a0e-9d6c-0a6a2b8f4c11", "7a3b6f0e-2f8b-4a0e-9d6c-0a6a2b8f4c11"),
        ("tags", ["a", "b c"], '{a,"b c"}'),
        ("doc", {"a": 1}, '{"a": 1}'),
        ("doc", "text", '"text"'),
        ("docb", {"b": 1, "a": None}, '{"a": null, "b": 1}'),
        ("docb", "text", '"text"'),
        ("docb", None, ""),
        ("bits", "\\xdeadbeef", "\\xdeadbeef"),
        ("ip", "10.0.0.1", "10.0.0.1"),
        ("mood", "calm", "calm"),
    ],
)
def test_a_value_becomes_what_its_column_holds(
    client: httpx2.Client, postgres_backend: Postgres, column: str, value: object, stored: str
) -> None:
    """Numbers, times, arrays, documents; columns that no pointer names get their defaults."""
    postgres_backend.run("DELETE FROM audit.typed")

    answer = client.post("/typed", json={column: value})

    assert answer.status_code == 201
    assert postgres_backend.run(f"SELECT {column}, extra FROM audit.typed") == [(stored, "default")]


@pytest.mark.parametrize("column", ["n_num", "words", "docb", "doc"])
def test_a_long_number_keeps_its_digits(
    client: httpx2.Client, postgres_backend: Postgres, column: str
) -> None:
    """An amount is an amount: a float would round this one, and nobody would be told."""
    postgres_backend.run("DELETE FROM audit.typed")

    answer = client.post(
        "/typed",
        content=f'{{"{column}": 12345678901234567.89}}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 201
    assert postgres_backend.run(f"SELECT {column} FROM audit.typed") == [("12345678901234567.89",)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("n_int", "seven"),
        ("n_int", 2**31),
        ("n_int", {"a": 1}),
        ("short", "too long"),
        ("day", "yesterday-ish"),
        ("id", "x"),
        ("words", "nul \0 byte"),
        ("mood", "sleepy"),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_refused(
    client: httpx2.Client, column: str, value: object
) -> None:
    answer = client.post("/typed", json={column: value})

    assert answer.status_code == 422


def test_a_constraint_that_is_checked_at_commit_counts_before_the_answer(
    client: httpx2.Client, postgres_backend: Postgres
) -> None:
    """A 2xx means committed, not merely accepted by the statement."""
    assert client.post("/deferred", json={"id": 1}).status_code == 201

    assert client.post("/deferred", json={"id": 1}).status_code == 409
    assert postgres_backend.run("SELECT id FROM deferred") == [("1",)]


@pytest.mark.parametrize("path", ["/swallowing", "/forbidden"])
def test_a_row_that_the_database_does_not_keep_is_not_confirmed(client: httpx2.Client, path: str) -> None:
    """A trigger that drops it, or a missing right, is a fault of the set-up."""
    assert client.post(path, json={}).status_code == 500


def test_a_table_is_made_in_its_schema(client: httpx2.Client, postgres_backend: Postgres) -> None:
    for number in range(2):
        assert client.post("/created", json={"n": number}).status_code == 201

    rows = postgres_backend.run("SELECT id, body FROM audit.made_here ORDER BY id")
    assert [(number, json.loads(body)) for number, body in rows] == [("1", {"n": 0}), ("2", {"n": 1})]


def test_a_body_that_is_null_is_a_document(client: httpx2.Client, postgres_backend: Postgres) -> None:
    """Not a missing value, whatever the column; one that cannot hold it takes other bodies."""
    bodies, counts = (
        [
            client.post(path, content=body, headers={"Content-Type": "application/json"})
            for body in ("5", "null")
        ]
        for path in ("/bodies", "/counts")
    )

    assert [answer.status_code for answer in bodies] == [201, 201]
    assert [answer.status_code for answer in counts] == [201, 422]
    rows = postgres_backend.run("SELECT doc, docb, words FROM bodies ORDER BY words")
    assert rows == [("5", "5", "5"), ("null", "null", "null")]
