"""503 when a pool cannot serve: when to come back, and nothing about what is behind it."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from millpond.errors import (
    CircuitOpen,
    ConnectFailed,
    InvariantBroken,
    PoolClosed,
    PoolError,
    PoolExhausted,
    PoolTimeout,
    TimeoutCause,
)
from millpond.web import add_exception_handlers

SAID = "InvalidPasswordError: for user secret-user at 10.1.2.3"
ERRORS = [
    (PoolTimeout("orders", waited=1.0, cause=TimeoutCause.EXHAUSTED, last_error=SAID), "1"),
    (PoolTimeout("orders", waited=1.0, cause=TimeoutCause.EXHAUSTED, retry_after=0.01), "1"),
    (PoolExhausted("orders", max_waiting=5, status=None, retry_after=2.1), "3"),
    (PoolClosed("orders", why="it is draining"), "1"),
    (ConnectFailed("orders", attempts=3, last_error=SAID, retry_after=4.0), "4"),
    (CircuitOpen("orders", last_error=SAID, retry_after=29.2), "30"),
]


def client_for(error: Exception) -> TestClient:
    app = FastAPI()
    add_exception_handlers(app)

    @app.get("/")
    async def fails() -> None:
        raise error

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(("error", "retry_after"), ERRORS)
def test_what_means_not_now_is_503(error: PoolError, retry_after: str) -> None:
    """Retry-After in whole seconds, at least one; the body is the same for all."""
    answer = client_for(error).get("/")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == retry_after
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Not available at the moment; try again later.",
    }


def test_a_fault_of_ours_is_not_disguised() -> None:
    """It would be retried for ever."""
    assert client_for(InvariantBroken("broken")).get("/").status_code == 500
