"""`millpond check` and a MySQL connection: one clear line for each thing that can be wrong with it."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import check, says_in_one_line
from tests.gateway.service import mysql
from tests.servers import MariaDBServer, free_port

SECRET = "planted-secret"


@pytest.fixture(params=["asyncmy", "aiomysql"])
def there(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> dict[str, Any]:
    """The configuration of a connection that works, with each library in turn."""
    return mysql(mariadb, library=request.param)


def test_all_well(tmp_path: Path, there: dict[str, Any]) -> None:
    """A line, exit status 0, and nothing on standard error; as parts, and as a URL."""
    url = f"mariadb://{there['user']}:{there['password']}@{there['host']}:{there['port']}/{there['database']}"

    ran = check(tmp_path, {"parts": there, "url": {"url": url, "library": there["library"]}})

    assert (ran.status, ran.err) == (0, "")
    assert len(re.findall(r"(?:parts|url)  +mysql  ok +\d+\.\d ms  MariaDB 1\d\.\d+\.\d+", ran.out)) == 2


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"password": SECRET}, 2, ["orders.password", "Access denied"]),
        ({"user": "nobody-here"}, 2, ["orders.password", "nobody-here"]),
        ({"database": "no_such_database"}, 2, ["orders.database", "no_such_database"]),
        ({"ssl": "require"}, 2, ["orders.ssl", "TLS is required"]),
        ({"collation": "no_such_order"}, 2, ["orders.collation", "no_such_order"]),
        ({"server_settings": {"no_such_thing": 1}}, 2, ["orders", "no_such_thing"]),
        ({"libary": "asyncmy"}, 2, ["orders.libary", "did you mean 'library'?"]),
        ({"library": "mysqlclient"}, 2, ["orders.library", "asyncmy", "aiomysql"]),
        ({"host": "no-such-host.invalid"}, 1, ["orders.host", "cannot be reached"]),
        ({"host": "/no/such.sock", "port": 3306}, 1, ["orders.host", "cannot be reached"]),
        ({"port": None}, 1, ["orders.port", "cannot be reached"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line_that_names_the_key(
    tmp_path: Path, there: dict[str, Any], change: dict[str, Any], status: int, words: list[str]
) -> None:
    """Exit status 2 for what has to be changed, 1 for what may come back; no secret in either."""
    change = {key: free_port() if value is None else value for key, value in change.items()}

    ran = check(tmp_path, {"orders": {**there, **change}})

    says_in_one_line(ran, status, words, secrets={SECRET, there["password"]})
