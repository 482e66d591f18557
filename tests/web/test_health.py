"""Health: from memory, or by asking every backend; in neither case a word too much."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from millpond.web import health_router, lifespan
from tests.gateway.service import postgresql
from tests.servers import PostgresServer, free_port
from tests.web.conftest import Written


def app_for(path: Path) -> FastAPI:
    app = FastAPI(lifespan=lifespan(path))
    app.include_router(health_router(timeout=2.0))
    return app


def gone(server: PostgresServer) -> dict[str, object]:
    """A connection to a server that is not there."""
    return postgresql(server) | {"port": free_port(), "pool": {"connect_timeout": 1.0}}


def test_health_opens_nothing(connections_file: Written) -> None:
    """A name that nobody has used is healthy and stays unopened, however often it is asked."""
    with TestClient(app_for(connections_file())) as client:
        for _ in range(3):
            answer = client.get("/health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["pools"]["events"]["state"] == "not opened"
    assert answer.json()["pools"]["events"]["total"] == 0


def test_asking_the_backends_is_a_real_check(connections_file: Written, postgres: PostgresServer) -> None:
    with TestClient(app_for(connections_file(orders=postgresql(postgres)))) as client:
        answer = client.get("/health/db")
        memory = client.get("/health").json()

    assert answer.status_code == 200
    assert answer.json()["status"] == "healthy"
    for name in ("events", "orders"):
        found = answer.json()["connections"][name]
        assert found["status"] == "healthy"
        assert 0 <= found["latency_ms"] < 2000
        assert found["pool_size"] >= 1
        assert found["pool_checked_out"] == 0
        assert found["error"] is None
        assert memory["pools"][name]["state"] == "open"


def test_a_backend_that_is_gone_is_503_and_no_more_is_said(
    connections_file: Written, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one is still told to be well; details are in the log only."""
    with TestClient(app_for(connections_file(orders=gone(postgres)))) as client:
        answer = client.get("/health/db")
        memory = client.get("/health")

    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    connections = answer.json()["connections"]
    assert connections["events"]["status"] == "healthy"
    assert connections["orders"]["status"] == "unhealthy"
    assert connections["orders"]["error"] in ("unavailable", "timeout", "circuit open")
    assert "127.0.0.1" not in answer.text
    assert (memory.status_code, memory.json()["status"]) == (200, "degraded")
    assert any("orders" in message for message in caplog.messages)
    assert postgres.password not in caplog.text


def test_every_application_says_what_is_wrong_in_its_log(
    connections_file: Written, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What another one of this process has just said does not make it silent."""
    path = connections_file(orders=gone(postgres))
    for _ in range(2):
        caplog.clear()
        with TestClient(app_for(path)) as client:
            client.get("/health/db")
        assert any(message.startswith("health of orders: ") for message in caplog.messages)


def test_both_are_in_the_openapi_document(connections_file: Written) -> None:
    """With models for what they answer."""
    document = app_for(connections_file()).openapi()

    for path, status in (("/health", "200"), ("/health/db", "200"), ("/health/db", "503")):
        content = document["paths"][path]["get"]["responses"][status]["content"]["application/json"]
        assert "$ref" in content["schema"]


@pytest.mark.parametrize("path", ["/health", "/health/db"])
def test_a_probe_may_ask_without_wanting_the_answer(connections_file: Written, path: str) -> None:
    """HEAD is what `curl -I` and many load balancers send."""
    with TestClient(app_for(connections_file())) as client:
        answer = client.head(path)

    assert answer.status_code == 200
    assert answer.content == b""
