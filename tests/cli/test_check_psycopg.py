"""`millpond check` and PostgreSQL on psycopg, whose errors tell what is wrong in words only."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import check, says_in_one_line
from tests.gateway.service import postgresql
from tests.servers import PostgresServer, free_port

SECRET = "planted-secret"


@pytest.fixture
def there(postgres: PostgresServer) -> dict[str, Any]:
    """The configuration of a connection that works."""
    return postgresql(postgres, library="psycopg")


def test_all_well(tmp_path: Path, there: dict[str, Any]) -> None:
    """A line, exit status 0, and nothing on standard error; as parts, and as a URL."""
    place = f"{there['host']}:{there['port']}/{there['database']}"
    url = f"postgresql://{there['user']}:{there['password']}@{place}?library=psycopg"

    ran = check(tmp_path, {"parts": there, "url": {"url": url}})

    assert (ran.status, ran.err) == (0, "")
    assert len(re.findall(r"(?:parts|url)  +postgresql  ok +\d+\.\d ms  PostgreSQL \d+\.\d+", ran.out)) == 2


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"password": SECRET}, 2, ["orders.password", "authentication failed"]),
        ({"user": "nobody-here"}, 2, ["orders.password", "nobody-here"]),
        ({"database": "no_such_database"}, 2, ["orders.database", "no_such_database"]),
        ({"ssl": "require"}, 2, ["orders.ssl", "SSL"]),
        (
            {"ssl": "verify-full", "ssl_root_cert": "/no/such.pem"},
            2,
            ["orders.ssl_root_cert", "/no/such.pem"],
        ),
        ({"server_settings": {"no_such_thing": "1"}}, 2, ["orders.server_settings", "no_such_thing"]),
        ({"libary": "psycopg"}, 2, ["orders.libary", "did you mean 'library'?"]),
        ({"library": "psycopg2"}, 2, ["orders.library", "asyncpg", "psycopg"]),
        ({"command_timeout": 1}, 2, ["orders.command_timeout", "statement_timeout"]),
        ({"host": "no-such-host.invalid"}, 1, ["orders.host", "cannot be reached"]),
        ({"host": "/no/such/directory"}, 1, ["orders.host", "cannot be reached"]),
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
