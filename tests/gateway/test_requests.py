"""Clients that behave badly: too large, too slow, gone in the middle. They store nothing and hold nothing."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.gateway.backends import Sqlite
from tests.gateway.service import Service, hook
from tests.gateway.traffic import client_of, eventually

HEAD = "POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def service(sqlite_backend: Sqlite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    hooks = [
        hook(
            "/events",
            "sqlite",
            "events",
            module={"create_table": True},
            body_timeout=1.0,
            max_body_bytes=10_000,
        )
    ]
    connections = {"events": sqlite_backend.connection(pool_max_size=2)}
    with Service(tmp_path_factory.mktemp("service"), connections, hooks) as running:
        with client_of(running.url) as client:
            assert client.post("/events", json={"number": 0}).status_code == 201
        yield running
        assert running.stop() == 0
        assert running.complaints() == []


def dial(service: Service) -> socket.socket:
    """A bare connection to the service."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def answer_to(connection: socket.socket) -> str:
    """The head of the next answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    return received.decode().partition("\r\n\r\n")[0]


def status_of(head: str) -> str:
    return head.split()[1]


def test_a_length_above_the_limit_is_refused_before_the_body_is_sent(service: Service) -> None:
    """The client learns it from the head alone."""
    with dial(service) as connection:
        connection.sendall(f"{HEAD}Content-Length: 10001\r\n\r\n".encode())

        assert status_of(answer_to(connection)) == "413"


def test_a_body_without_a_length_is_refused_while_it_arrives(service: Service) -> None:
    """The answer comes although the body has no end."""
    with dial(service) as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(11):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")

        assert status_of(answer_to(connection)) == "413"


def test_a_client_that_asks_first_is_told_no_before_it_sends(service: Service) -> None:
    """Expect: 100-continue, with a body that is too large: 413 and no 100."""
    with dial(service) as connection:
        connection.sendall(f"{HEAD}Expect: 100-continue\r\nContent-Length: 10001\r\n\r\n".encode())

        assert status_of(answer_to(connection)) == "413"


def test_a_client_that_dawdles_is_sent_away(service: Service) -> None:
    """408 after the hook's body_timeout; no connection of the pool was held meanwhile."""
    with dial(service) as connection, client_of(service.url) as client:
        connection.sendall(f"{HEAD}Content-Length: 20\r\n\r\n{{".encode())

        assert client.get("/health").json()["pools"]["events"]["busy"] == 0
        assert status_of(answer_to(connection)) == "408"


async def test_a_client_that_leaves_in_the_middle_stores_nothing(
    service: Service, sqlite_backend: Sqlite
) -> None:
    """Half a body is no body, even if what arrived is a whole document; and nothing stays behind."""
    before = sqlite_backend.run("SELECT count(*) FROM webhook_events")
    for _ in range(50):
        with dial(service) as connection:
            connection.sendall(f'{HEAD}Content-Length: 1000\r\n\r\n{{"number": -1}}'.encode())

    with client_of(service.url) as client:
        assert client.post("/events", json={"number": 1}).status_code == 201
        await eventually(lambda: client.get("/health").json()["pools"]["events"]["busy"] == 0, "no leases")
    ((after,),) = sqlite_backend.run("SELECT count(*) FROM webhook_events")
    assert int(after) == int(before[0][0]) + 1


def test_a_client_that_leaves_before_the_answer_harms_nobody(
    service: Service, sqlite_backend: Sqlite
) -> None:
    """Its rows are stored, for the request was whole; the connections go on to others."""
    for _ in range(50):
        with dial(service) as connection:
            connection.sendall(f'{HEAD}Content-Length: 14\r\n\r\n{{"number": -2}}'.encode())

    with client_of(service.url) as client:
        for number in range(5):
            assert client.post("/events", json={"number": number}).status_code == 201


def test_one_connection_can_carry_many_requests(service: Service) -> None:
    """Also several sent before the first answer."""
    request = f"{HEAD}Content-Length: 2\r\n\r\n{{}}".encode()
    with dial(service) as connection:
        connection.sendall(request * 5)
        received = b""
        while received.count(b'{"stored":1}') < 5:
            received += connection.recv(65536)

    assert received.count(b"HTTP/1.1 201") == 5


def test_when_all_connections_are_out_the_answer_is_503(
    sqlite_backend: Sqlite, workplace: Path, tmp_path: Path
) -> None:
    """After acquire_timeout, with a whole number of seconds to wait; and the busy database is 503 too."""
    slow = Sqlite(tmp_path / "slow.db")
    slow.run("CREATE TABLE webhook_events (body text)")
    connections = {"events": slow.connection(pool_max_size=1, acquisition_timeout=0.3, busy_timeout=1.5)}
    import sqlite3
    from concurrent.futures import ThreadPoolExecutor

    def post() -> httpx2.Response:
        return httpx2.post(f"{service.url}/events", json={"number": 1}, trust_env=False, timeout=30)

    with Service(workplace, connections, [hook("/events", "sqlite", "events")]) as service:
        locker = sqlite3.connect(slow.path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            answers = [each.result() for each in [threads.submit(post) for _ in range(4)]]
        took = time.monotonic() - started
        locker.execute("ROLLBACK")
        locker.close()

        assert [answer.status_code for answer in answers] == [503] * 4
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        assert took < 1.5 + 2.0
        assert post().status_code == 201
        assert len(slow.numbers()) == 1
