"""SIGTERM in the middle of traffic: what was confirmed is stored, what was let in is answered, it ends."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.gateway.backends import Database, Sqlite
from tests.gateway.service import Service, hook
from tests.gateway.traffic import Traffic, eventually


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_no_request_is_lost_when_the_service_is_told_to_end(
    backend: Database, workplace: Path, *, keep_alive: bool
) -> None:
    """Every 2xx has its row, every row its 2xx; whoever is not answered was never let in."""
    table = f"ended_{keep_alive}".lower()
    hooks = [hook("/events", backend.kind, "events", module={"table": table, "create_table": True})]
    with Service(workplace, {"events": backend.connection()}, hooks) as service:
        traffic = Traffic(f"{service.url}/events")
        traffic.until = lambda: traffic.answers["ConnectError"] > 0
        flow = asyncio.create_task(traffic.flow(clients=16, requests=20_000, keep_alive=keep_alive))
        await eventually(lambda: len(traffic.confirmed) >= 1000, "a thousand rows", timeout=40.0)
        told_at = time.monotonic()
        service.signal(signal.SIGTERM)
        status = await asyncio.to_thread(service.wait)
        took = time.monotonic() - told_at
        await flow

    assert status == 0
    assert took < 10
    assert service.complaints() == []
    stored = backend.numbers(table)
    assert sorted(stored) == sorted(traffic.confirmed)
    # A client whose handshake the kernel completes between the last accept and the listener's close is
    # reset before anybody has read a byte of it: refused, for all that matters, and never stored (above).
    assert traffic.answers.keys() <= {"201", "ConnectError", "ReadError", "RemoteProtocolError"}
    assert traffic.answers["ReadError"] + traffic.answers["RemoteProtocolError"] <= 16, "one a client at most"


async def test_an_idle_client_does_not_keep_the_service_from_ending(
    sqlite_backend: Sqlite, workplace: Path
) -> None:
    """Neither one that has nothing to say nor one that stopped in the middle of a body."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    arguments = ["--shutdown-timeout", "3"]
    with Service(workplace, {"events": sqlite_backend.connection()}, hooks, arguments=arguments) as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        address = (host, int(port))
        head = b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(address), socket.create_connection(address, timeout=10) as stalled:
            stalled.sendall(head + b"Content-Length: 9\r\n\r\n{")
            started = time.monotonic()
            status = await asyncio.to_thread(service.stop)
            took = time.monotonic() - started
            answer = stalled.recv(65536)

    assert status == 0
    assert took < 7
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert not any("Traceback" in line for line in service.complaints())


def test_a_second_signal_cuts_the_end_short(sqlite_backend: Sqlite, workplace: Path) -> None:
    """Whoever is in a hurry presses Ctrl-C again; the pools are closed all the same."""
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    with Service(workplace, {"events": sqlite_backend.connection()}, hooks) as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as stalled:
            stalled.sendall(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            stalled.sendall(b"Content-Length: 9\r\n\r\n{")
            service.signal(signal.SIGINT)
            started = time.monotonic()
            while "SIGINT" not in service.stderr:
                assert time.monotonic() < started + 10
                time.sleep(0.02)
            service.signal(signal.SIGINT)
            status = service.wait()

        assert status == 0
        assert time.monotonic() < started + 4
        assert "Traceback" not in service.stderr


async def test_a_service_that_was_just_started_can_be_ended(sqlite_backend: Sqlite, workplace: Path) -> None:
    """At any moment of its start: it either has not begun, or ends well."""
    hooks = [hook("/events", "sqlite", "events")]
    for moment in (0.3, 0.6, 0.9):
        service = Service(workplace, {"events": sqlite_backend.connection()}, hooks)
        service.launch()
        await asyncio.sleep(moment)
        service.signal(signal.SIGTERM)

        assert await asyncio.to_thread(service.wait) in (0, -signal.SIGTERM)
        assert "Traceback" not in service.stderr
