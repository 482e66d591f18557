"""`millpond check` and a RabbitMQ connection: one clear line for each thing that can be wrong with it."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import check, says_in_one_line
from tests.servers import RabbitMQServer, free_port

SECRET = "planted-secret"


@pytest.fixture
def there(rabbitmq_server: RabbitMQServer) -> dict[str, Any]:
    """The configuration of a connection that works."""
    server = rabbitmq_server
    return {
        "type": "rabbitmq", "host": server.host, "port": server.port, "user": server.user,
        "password": server.password,
    }  # fmt: skip


def test_all_well(tmp_path: Path, there: dict[str, Any], rabbitmq_server: RabbitMQServer) -> None:
    """A line, exit status 0, and nothing on standard error; as parts, and as a URL."""
    ran = check(tmp_path, {"parts": there, "url": {"url": rabbitmq_server.dsn()}})

    assert (ran.status, ran.err) == (0, "")
    assert len(re.findall(r"(?:parts|url)  +rabbitmq  ok +\d+\.\d ms", ran.out)) == 2


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"password": SECRET}, 2, ["orders.password", "ACCESS_REFUSED"]),
        ({"user": "nobody-here"}, 2, ["orders.password", "ACCESS_REFUSED"]),
        ({"vhost": "no_such_vhost"}, 2, ["orders.vhost", "no_such_vhost not found"]),
        ({"virtualhost": "x"}, 2, ["orders.virtualhost", "did you mean 'vhost'?"]),
        ({"heartbeat": "often"}, 2, ["orders.heartbeat", "whole number"]),
        ({"host": "no-such-host.invalid"}, 1, ["orders.host", "cannot be reached"]),
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
