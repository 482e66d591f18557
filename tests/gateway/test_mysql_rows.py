"""What is MySQL's own about rows: transactions, times, other databases, and words that hold values."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.gateway.backends import MariaDB
from tests.gateway.service import Service, hook


@pytest.fixture(scope="module")
def service(mariadb_backend: MariaDB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service whose connections commit by hand and by themselves, with either library."""
    mariadb_backend.run(
        """
        CREATE TABLE timed (at DATETIME(6), day DATE, flag BOOLEAN, number DECIMAL(10, 2), doc JSON);
        CREATE TABLE amounts (exact DECIMAL(30, 10), inexact DOUBLE, words LONGTEXT, doc JSON);
        CREATE TABLE single (id INT PRIMARY KEY, name VARCHAR(10));
        INSERT INTO single VALUES (9, 'first');
        CREATE TABLE `100%` (`50%` TEXT);
        CREATE TRIGGER guard BEFORE INSERT ON `100%` FOR EACH ROW
          IF NEW.`50%` = 'rye' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no rye'; END IF
        """
    )

    def to(path: str, connection: str, table: str, **more: Any) -> dict[str, Any]:
        return hook(path, "mysql", connection, module={"table": table, **more})

    amounts = ("exact", "inexact", "words")
    columns = {name: f"/{name}" for name in ("day", "flag", "number", "doc")} | {"at": "$received_at"}
    hooks = [
        to("/by-hand", "by_hand", "kept", create_table=True),
        to("/aiomysql", "aiomysql", f"{mariadb_backend.database}.also_kept", create_table=True),
        to("/timed", "events", "timed", columns=columns),
        *[
            to(path, connection, "amounts", columns={**dict.fromkeys(amounts, "/n"), "doc": "/doc"})
            for path, connection in (("/amounts", "events"), ("/amounts-aiomysql", "aiomysql"))
        ],
        to("/single", "events", "single", columns={"id": "/id", "name": "/name"}),
        to("/percent", "events", "100%", columns={"50%": "/half"}),
    ]
    connections = {
        "events": mariadb_backend.connection(),
        "by_hand": mariadb_backend.connection(autocommit=False),
        "aiomysql": mariadb_backend.connection(library="aiomysql"),
    }
    with Service(tmp_path_factory.mktemp("service"), connections, hooks) as running:
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize(("path", "table"), [("/by-hand", "kept"), ("/aiomysql", "also_kept")])
def test_a_row_is_committed_before_it_is_confirmed(
    client: httpx2.Client, mariadb_backend: MariaDB, path: str, table: str
) -> None:
    """Also where the connection does not commit by itself; either library, in a named database too."""
    for number in range(3):
        assert client.post(path, json={"number": number}).status_code == 201

    assert mariadb_backend.numbers(table) == [0, 1, 2]


def test_values_become_what_their_columns_hold(client: httpx2.Client, mariadb_backend: MariaDB) -> None:
    """A time without a zone, a date, a truth, a decimal, a document."""
    sent = {"day": "2026-11-21", "flag": True, "number": 1.25, "doc": {"w\u00f6rd": [1]}}

    answer = client.post("/timed", json=sent)

    assert answer.status_code == 201
    ((at, day, flag, number, doc),) = mariadb_backend.run("SELECT at, day, flag, number, doc FROM timed")
    assert at.startswith("20")
    assert "+" not in at
    assert (day, flag, number, json.loads(doc)) == ("2026-11-21", "1", "1.25", sent["doc"])


@pytest.mark.parametrize("path", ["/amounts", "/amounts-aiomysql"])
def test_a_long_number_keeps_its_digits(client: httpx2.Client, mariadb_backend: MariaDB, path: str) -> None:
    """An amount is an amount, with either library."""
    mariadb_backend.run("DELETE FROM amounts")
    number = "12345678901234567.89"

    answer = client.post(
        path,
        content=f'{{"n": {number}, "doc": {{"n": {number}}}}}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 201
    ((exact, inexact, words, doc),) = mariadb_backend.run("SELECT exact, inexact, words, doc FROM amounts")
    assert (exact, words, doc) == (f"{number}00000000", number, f'{{"n": {number}}}')
    assert float(inexact) == pytest.approx(float(number))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/single", {"id": 1, "name": "first"}, 201),
        ("/single", {"id": 9, "name": "planted"}, 409),
        ("/single", {"id": 2, "name": "planted-and-too-long"}, 422),
        ("/single", {"id": "planted", "name": "x"}, 422),
        ("/single", {"id": 3, "name": "\udc80"}, 422),
        ("/percent", {"half": "barley"}, 201),
        ("/percent", {"half": "rye"}, 422),
    ],
)
def test_what_does_not_fit_is_refused_and_its_values_stay_out_of_the_log(
    client: httpx2.Client, service: Service, path: str, body: dict[str, Any], status: int
) -> None:
    """The server's own sentences quote them."""
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    assert answer.status_code == status
    assert "planted" not in service.stderr
