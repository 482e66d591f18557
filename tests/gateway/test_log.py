"""The module that writes a line: what is known of a request, and of what it says only what was asked for."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.gateway.backends import Sqlite
from tests.gateway.service import Service, hook


@pytest.fixture(scope="module")
def service(sqlite_backend: Sqlite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    stored = hook("/both", "sqlite", "events", module={"create_table": True}, idempotency={})

    def log(path: str, **more: Any) -> dict[str, Any]:
        return {"path": path, "modules": [{"type": "log", **more}]}

    hooks = [
        log("/bare"),
        log("/values", level="warning", values={"order": "/order/id", "who": "/who"}),
        log("/body", body=True),
        log("/quiet", level="debug"),
        {**stored, "modules": [{"type": "log"}, *stored["modules"]]},
    ]
    directory = tmp_path_factory.mktemp("service")
    with Service(directory, {"events": sqlite_backend.connection()}, hooks) as running:
        assert "-> log, events" in running.stdout
        yield running
        assert running.stop() == 0


def lines_of(service: Service, path: str) -> list[str]:
    return [line for line in service.stderr.splitlines() if f"requests: {path}: " in line]


def test_a_line_tells_what_is_known_and_not_what_was_said(client: httpx2.Client, service: Service) -> None:
    """Nothing is stored, so that the answer is 200."""
    answer = client.post("/bare", json={"token": "planted"})

    assert (answer.status_code, answer.json()) == (200, {"stored": 0})
    (line,) = lines_of(service, "/bare")
    assert line.endswith("/bare: 19 bytes of application/json from 127.0.0.1")
    assert " INFO millpond.gateway.requests: " in line
    assert "planted" not in service.stderr


def test_values_that_were_asked_for_are_in_the_line(client: httpx2.Client, service: Service) -> None:
    client.post("/values", json={"order": {"id": 7}, "who": "\u00e4\nb" * 200})

    line = lines_of(service, "/values")[-1]
    assert " WARNING " in line
    assert "(order=7, who='\\xe4\\nb\\xe4\\nb" in line
    assert len(line) < 400


def test_a_long_number_is_in_the_line_as_it_was_sent(client: httpx2.Client, service: Service) -> None:
    content = '{"order": {"id": 12345678901234567.89}, "who": "decimal"}'
    client.post("/values", content=content, headers={"Content-Type": "application/json"})

    assert "(order=12345678901234567.89, who='decimal')" in lines_of(service, "/values")[-1]


def test_no_request_writes_lines_of_its_own(client: httpx2.Client, service: Service) -> None:
    """A body has newlines, and terminals obey what they are told."""
    body = '{"x":\n"2026-01-01 ERROR millpond.gateway: forged \u001b[31m"}'.replace("\u001b", "\\u001b")
    client.post("/body", content=body, headers={"Content-Type": "application/json"})
    client.post(
        "/body",
        content=json.dumps("x" * 5000),
        headers={"Content-Type": "application/x-\u00a0+json".encode()},
    )  # type: ignore[dict-item]

    lines = lines_of(service, "/body")
    assert any("forged" in line for line in lines)
    assert len([line for line in service.stderr.splitlines() if "forged" in line]) == 1
    assert all(line.isascii() and len(line) < 1200 for line in lines)


def test_a_level_that_is_not_logged_costs_nothing(client: httpx2.Client, service: Service) -> None:
    assert client.post("/quiet", json={}).status_code == 200
    assert lines_of(service, "/quiet") == []


def test_a_line_stands_beside_what_is_stored(client: httpx2.Client, service: Service) -> None:
    """A retry is logged again, with its key, and stored once."""
    answers = [client.post("/both", json={}, headers={"Idempotency-Key": "k-1"}) for _ in range(2)]

    assert [each.json() for each in answers] == [{"stored": 1}] * 2
    assert [each.headers.get("idempotent-replayed") for each in answers] == [None, "true"]
    assert [line.endswith(", key 'k-1'") for line in lines_of(service, "/both")] == [True, True]
