"""A connection as a dependency: held while the handler runs, and no longer."""

from typing import Annotated, Any

import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from starlette.responses import StreamingResponse

from millpond.web import add_exception_handlers, connection, lifespan, registry_of
from tests.web.conftest import Written

Events = Annotated[Any, connection("events")]
Impatient = Annotated[Any, connection("events", timeout=0.05)]


@pytest.fixture
def app(connections_file: Written) -> FastAPI:
    app = FastAPI(lifespan=lifespan(connections_file(pool={"max_size": 1, "min_size": 0})))
    add_exception_handlers(app)
    return app


def busy(app: FastAPI) -> int:
    pool = app.state.registry.status().active[0].pool
    return pool.busy if pool else 0


def test_a_handler_gets_the_bare_connection(app: FastAPI) -> None:
    @app.get("/")
    async def handler(db: Events) -> list[int]:
        return [row[0] for row in await db.execute_fetchall("SELECT 5")] + [busy(app)]

    with TestClient(app) as client:
        assert client.get("/").json() == [5, 1]
        assert busy(app) == 0


def test_the_lease_ends_before_the_answer_is_sent(app: FastAPI) -> None:
    """So a slow client, here one that streams, keeps no connection from others."""

    @app.get("/")
    async def handler(db: Events) -> StreamingResponse:
        async def body() -> Any:
            yield str(busy(app))

        return StreamingResponse(body())

    with TestClient(app) as client:
        assert client.get("/").text == "0"


def test_no_connection_in_time_is_503(app: FastAPI) -> None:
    """One connection, and the handler holds it itself: the dependency's timeout counts."""

    @app.get("/")
    async def handler(first: Events, second: Impatient) -> None:
        raise AssertionError("nobody gets here")

    with TestClient(app) as client:
        answer = client.get("/")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert busy(app) == 0


def test_an_error_in_the_handler_gives_the_connection_back(app: FastAPI) -> None:
    """And leaves no open transaction to the next borrower."""

    @app.get("/setup")
    async def setup(db: Events) -> None:
        await db.execute("CREATE TABLE t (x)")
        await db.commit()

    @app.get("/fail")
    async def fail(db: Events) -> None:
        await db.execute("INSERT INTO t VALUES (1)")
        raise HTTPException(418)

    @app.get("/count")
    async def count(db: Events) -> int:
        rows = await db.execute_fetchall("SELECT count(*) FROM t")
        return int(next(iter(rows))[0])

    with TestClient(app) as client:
        client.get("/setup")
        assert client.get("/fail").status_code == 418
        assert client.get("/count").json() == 0


def test_websockets_can_borrow_too(app: FastAPI) -> None:
    @app.websocket("/")
    async def handler(socket: WebSocket, db: Events) -> None:
        await socket.accept()
        assert registry_of(socket).names == ("events",)
        rows = await db.execute_fetchall("SELECT 7")
        await socket.send_json(next(iter(rows))[0])
        await socket.close()

    with TestClient(app) as client, client.websocket_connect("/") as socket:
        assert socket.receive_json() == 7
