"""A request becomes a row, in each database; what cannot become one is refused without a word about why."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.gateway.backends import Database
from tests.gateway.service import Service, hook
from tests.gateway.traffic import open_client

ODD_TABLE = 'odd "name" -- x'
MAPPED = {"order no": "/order/id", 'wh"o': "/user/name", "via": "$path", "at": "$received_at", "all": "$body"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(backend: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests here; each has hooks and tables of its own."""
    backend.run(
        """
        CREATE TABLE strict (id integer PRIMARY KEY, name text NOT NULL, age integer CHECK (age >= 0));
        CREATE TABLE narrow (body text);
        """
    )

    def to(path: str, table: str, **more: Any) -> dict[str, Any]:
        return hook(path, backend.kind, "events", module={"table": table, **more})

    second = {"type": backend.kind, "connection": "events", "table": "no_such_table"}
    two = to("/two", "first", create_table=True)
    hooks = [
        to("/default", "webhook_events", create_table=True),
        to("/deep", "deep", create_table=True),
        to("/mapped", ODD_TABLE, columns=MAPPED, create_table=True),
        to("/strict", "strict", columns={"id": "/id", "name": "/name", "age": "/age"}),
        to("/missing", "no_such_table"),
        to("/column", "narrow", columns={"no_such_column": "$body"}),
        to("/small", "narrow") | {"max_body_bytes": 20},
        *(to(f"/first/{table}", f"first_{table}", create_table=True) for table in range(8)),
        {**two, "modules": [*two["modules"], second]},
    ]
    directory = tmp_path_factory.mktemp("service")
    with Service(directory, {"events": backend.connection(pool_max_size=4)}, hooks) as running:
        yield running
        assert running.stop() == 0


def assert_gives_nothing_away(answer: httpx2.Response) -> None:
    """Problem details, and in them nothing of the database."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().keys() <= {"type", "title", "status", "detail"}
    assert answer.json()["status"] == answer.status_code
    text = answer.text.lower()
    for word in (
        "select",
        "insert",
        "constraint",
        "column",
        "table",
        "events",
        "strict",
        "sqlite",
        "postgres",
    ):
        assert word not in text


def test_a_request_is_stored_whole(client: httpx2.Client, backend: Database) -> None:
    """The table is made at the first request; the receipt says how many rows were stored."""
    sent = {"hello": "wörld 🌊", "n": [1, 2.5, None, True]}

    answer = client.post("/default", json=sent)

    assert (answer.status_code, answer.json()) == (201, {"stored": 1})
    assert [json.loads(body) for (body,) in backend.run("SELECT body FROM webhook_events")].count(sent) == 1


@pytest.mark.parametrize(
    "body", ["[]", "5", "true", "null", '"text"', "1.10", "123456789012345678901234567890"]
)
def test_any_json_document_is_a_body(client: httpx2.Client, backend: Database, body: str) -> None:
    """It need not be an object, its numbers keep their digits, and null is no missing value."""
    answer = client.post("/default", content=body, headers=JSON)

    assert answer.status_code == 201
    assert (body,) in backend.run("SELECT body FROM webhook_events")


def test_a_deep_body_is_stored_only_if_the_database_can_read_it(
    client: httpx2.Client, backend: Database
) -> None:
    """One row that cannot be read would fail every query that looks into the column."""
    depths = (backend.deepest, 501, 3000)

    answers = [client.post("/deep", content="[" * n + "]" * n, headers=JSON) for n in depths]

    assert [answer.status_code for answer in answers] == [201, 400, 400]
    assert backend.run(f"SELECT count(*), count({backend.number}) FROM deep") == [("1", "0")]


async def test_many_first_requests_at_once_make_one_table(service: Service, backend: Database) -> None:
    """Whoever comes second to create it finds it there; nobody's request fails for that."""
    async with open_client(64) as client:
        answers = await asyncio.gather(
            *(client.post(f"{service.url}/first/{at // 8}", json={"number": at}) for at in range(64))
        )

    assert {answer.status_code for answer in answers} == {201}
    assert all(len(backend.numbers(f"first_{table}")) == 8 for table in range(8))


def test_columns_take_what_their_pointers_find(client: httpx2.Client, backend: Database) -> None:
    """Names are quoted, however odd; what a pointer does not find is NULL."""
    sent = {"order": {"id": 7}, "user": {"nom": "x"}}

    answer = client.post("/mapped", json=sent)

    assert answer.status_code == 201
    quoted = ODD_TABLE.replace('"', '""')
    rows = backend.run(f'SELECT "order no", "wh""o", via, at, "all" FROM "{quoted}"')
    ((number, who, via, at, whole),) = rows
    assert (number, who, via) == ("7", "", "/mapped")
    assert at.startswith("20")
    assert json.loads(whole) == sent


def test_values_are_never_part_of_a_statement(client: httpx2.Client, backend: Database) -> None:
    """What would be SQL in a careless gateway is a text like any other."""
    evil = "'); DROP TABLE strict; --"

    answer = client.post("/strict", json={"id": 100, "name": evil})

    assert answer.status_code == 201
    assert backend.run("SELECT name FROM strict WHERE id = 100") == [(evil,)]


def test_a_row_that_is_there_already_is_a_conflict(client: httpx2.Client) -> None:
    client.post("/strict", json={"id": 200, "name": "x"})

    answer = client.post("/strict", json={"id": 200, "name": "y"})

    assert answer.status_code == 409
    assert_gives_nothing_away(answer)


@pytest.mark.parametrize(
    "body",
    [
        {"id": 300},
        {"id": 301, "name": "x", "age": -1},
        {"id": "no number", "name": "x"},
        {"id": 2**70, "name": "x"},
        {"id": 302, "name": "\ud800"},
    ],
)
def test_values_that_do_not_fit_are_the_senders_fault(client: httpx2.Client, body: dict[str, Any]) -> None:
    """Not null, a check, a type, a range, half a character: 422, and the connection stays good."""
    answer = client.post("/strict", content=json.dumps(body), headers=JSON)

    assert answer.status_code == 422
    assert_gives_nothing_away(answer)
    assert client.get("/health/db").status_code == 200


@pytest.mark.parametrize("path", ["/missing", "/column"])
def test_a_table_that_does_not_fit_is_ours_and_logged_once(
    client: httpx2.Client, service: Service, path: str
) -> None:
    """500 to everyone; one line in the log says what is missing, not one for each request."""
    answers = [client.post(path, json={}) for _ in range(20)]

    assert {answer.status_code for answer in answers} == {500}
    assert_gives_nothing_away(answers[0])
    (line,) = [line for line in service.stderr.splitlines() if f" {path} " in line]
    assert "no_such_" in line
    assert " ERROR millpond.gateway: " in line


def test_modules_run_in_order_and_the_first_failure_ends_it(client: httpx2.Client, backend: Database) -> None:
    """There is no common transaction: what was stored before the failure stays."""
    answer = client.post("/two", json={"n": 1})

    assert answer.status_code == 500
    assert backend.run("SELECT count(*) FROM first") == [("1",)]


@pytest.mark.parametrize(
    ("method", "path", "headers", "content", "status"),
    [
        ("POST", "/nowhere", JSON, "{}", 404),
        ("POST", "/default/", JSON, "{}", 404),
        ("POST", "/", JSON, "{}", 404),
        ("GET", "/default", {}, "", 405),
        ("PUT", "/default", JSON, "{}", 405),
        ("OPTIONS", "/default", {}, "", 405),
        ("POST", "/health", JSON, "{}", 405),
        ("POST", "/default", {}, "{}", 415),
        ("POST", "/default", {"Content-Type": "text/plain"}, "{}", 415),
        ("POST", "/default", JSON | {"Content-Encoding": "gzip"}, "{}", 415),
        ("POST", "/default", JSON, "", 400),
        ("POST", "/default", JSON, "{", 400),
        ("POST", "/default", JSON, "[NaN]", 400),
        ("POST", "/small", JSON, '{"a": "0123456789012"}', 413),
    ],
)
def test_what_is_not_a_request_to_a_hook_is_refused(
    client: httpx2.Client, method: str, path: str, headers: dict[str, str], content: str, status: int
) -> None:
    """Each with the status that says why."""
    answer = client.request(method, path, headers=headers, content=content)

    assert answer.status_code == status
    assert ("allow" in answer.headers) == (status == 405)
    assert_gives_nothing_away(answer)


def test_a_body_of_just_the_limit_is_stored(client: httpx2.Client) -> None:
    answer = client.post("/small", content='{"a": "01234567890"}', headers=JSON)

    assert answer.status_code == 201


def test_nothing_of_the_traffic_is_in_the_log(client: httpx2.Client, service: Service) -> None:
    """Neither query strings nor bodies: both may hold secrets."""
    client.post("/default?key=planted-query", json={"token": "planted-body"})
    client.post("/strict?key=planted-query", json={"id": "planted-body", "name": "planted-body"})

    assert "planted" not in service.stderr + service.stdout
