"""`millpond serve`: what it says when it starts, and when it cannot."""

import shlex
import socket
import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.cli.command import here, write
from tests.gateway.backends import Sqlite
from tests.gateway.service import Service, hook, postgresql
from tests.servers import PostgresServer

SECRET = "planted-secret"


def test_the_line_that_it_prints_can_be_pasted(tmp_path: Path) -> None:
    """The addresses are real, the port too, and the curl line stores a row."""
    store = Sqlite(tmp_path / "events.db")
    hooks = [hook("/webhook/try", "sqlite", "events", module={"create_table": True})]

    with Service(tmp_path / "service", {"events": store.connection()}, hooks) as service:
        (line,) = [line.strip() for line in service.stdout.splitlines() if line.strip().startswith("curl ")]
        pasted = subprocess.run(
            [*shlex.split(line), "--noproxy", "*", "--silent"], capture_output=True, text=True, timeout=30
        )

        assert pasted.stdout.startswith("HTTP/1.1 201 ")
        assert len(store.run("SELECT * FROM webhook_events")) == 1
        assert f"POST  {service.url}/webhook/try" in service.stdout
        for path in ("/health", "/health/db"):
            assert f"GET   {service.url}{path}" in service.stdout
            assert httpx2.get(f"{service.url}{path}", trust_env=False).status_code == 200
        assert service.stop() == 0
        assert service.complaints() == []


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    """Exit status 1: the files are right, and the port will be free another day."""
    write(tmp_path, "connections.json", {"events": {"type": "sqlite", "database": "events.db"}})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ran = here("serve", "--connections", "connections.json", "--port", str(port), directory=tmp_path)

    assert ran.status == 1
    assert ran.complaints == [f"millpond: cannot listen on 127.0.0.1 port {port}: address already in use"]
    assert ran.out == ""


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.1"])
def test_an_address_that_is_not_ours_is_one_line(tmp_path: Path, host: str) -> None:
    write(tmp_path, "connections.json", {"events": {"type": "sqlite", "database": "events.db"}})

    ran = here("serve", "--connections", "connections.json", "--host", host, directory=tmp_path)

    assert ran.status == 1
    (line,) = ran.complaints
    assert line.startswith(f"millpond: cannot listen on {host} port 8000: ")


def test_a_wrong_password_ends_it_before_it_serves(tmp_path: Path, postgres: PostgresServer) -> None:
    """Exit status 2 and one line, for it would never heal by itself."""
    write(tmp_path, "connections.json", {"orders": postgresql(postgres) | {"password": SECRET}})

    ran = here("serve", "--connections", "connections.json", "--port", "0", directory=tmp_path)

    assert ran.status == 2
    (line,) = ran.complaints
    assert line.startswith("millpond: connections.json: orders.password: ")
    assert SECRET not in ran.err
    assert ran.out == ""


def test_the_admin_api_is_off_without_a_token_and_asks_for_it_with_one(tmp_path: Path) -> None:
    """The token comes from the environment, and is nowhere in what the service says."""
    connections = {"events": {"type": "sqlite", "database": "events.db"}}
    token = {"CONFIG_RELOAD_ADMIN_TOKEN": SECRET}
    with Service(tmp_path / "off", connections) as service:
        url = f"{service.url}/admin/status"
        assert httpx2.get(url, headers={"Authorization": "Bearer guess"}, trust_env=False).status_code == 403
    with Service(tmp_path / "on", connections, environ=token) as service:
        url = f"{service.url}/admin/status"
        assert httpx2.get(url, trust_env=False).status_code == 401
        answer = httpx2.get(url, headers={"Authorization": f"Bearer {SECRET}"}, trust_env=False)
        assert answer.status_code == 200
        assert [each["name"] for each in answer.json()["active"]] == ["events"]
        assert SECRET not in service.stdout + service.stderr + answer.text
