"""A registry that lives as long as the application."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from millpond import ConnectionPoolRegistry
from millpond.errors import ConfigError, PoolClosed
from millpond.web import admin_router, lifespan, opened, registry_of
from millpond.web.admin import TOKEN_VARIABLE
from tests.web.conftest import Written


def show_names(app: FastAPI) -> None:
    @app.get("/names")
    async def names(request: Request) -> list[str]:
        assert registry_of(request) is request.app.state.registry
        return list(registry_of(request).names)


def test_a_path_is_enough(connections_file: Written) -> None:
    """The registry is there while the application runs, closed afterwards, and new at the next start."""
    app = FastAPI(lifespan=lifespan(connections_file()))
    show_names(app)
    seen = []
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/names").json() == ["events"]
            seen.append(app.state.registry)

    assert seen[0] is not seen[1]
    assert all(registry.status().closed for registry in seen)
    assert not hasattr(app.state, "registry")


def test_a_reload_is_of_the_registry_that_runs(connections_file: Written) -> None:
    """An application that starts again has a new registry, and the admin API is about that one."""
    app = FastAPI(lifespan=lifespan(connections_file()))
    app.include_router(admin_router(environ={TOKEN_VARIABLE: "x"}))
    for name in ("first", "second"):
        with TestClient(app, headers={"Authorization": "Bearer x"}) as client:
            connections_file(**{name: {"type": "sqlite", "database": ":memory:"}})
            answer = client.post("/admin/reload-config")

            assert answer.json()["connections"]["added"] == [name]
            assert name in app.state.registry.names


def test_a_file_is_watched_when_that_is_asked_for(connections_file: Written) -> None:
    """And no longer than the application runs; the admin API tells of it."""
    app = FastAPI(lifespan=lifespan(connections_file(), watch=True, debounce=0.05))
    app.include_router(admin_router(environ={TOKEN_VARIABLE: "x"}))
    show_names(app)
    for name in ("first", "second"):
        with TestClient(app, headers={"Authorization": "Bearer x"}) as client:
            connections_file(**{name: {"type": "sqlite", "database": ":memory:"}})
            deadline = time.monotonic() + 15
            while name not in client.get("/names").json():
                assert time.monotonic() < deadline
                time.sleep(0.02)

            status = client.get("/admin/config-status").json()
            assert (status["watching"], status["debounce"], status["last"]["trigger"]) == (True, 0.05, "file")
        assert not hasattr(app.state, "reloader")


def test_only_a_file_can_be_watched() -> None:
    """A registry that was filled by the program came from none."""
    app = FastAPI(lifespan=lifespan(ConnectionPoolRegistry, watch=True))

    with pytest.raises(ValueError, match="did not come from a file"), TestClient(app):
        pass


def test_an_application_may_have_a_lifespan_of_its_own(connections_file: Written) -> None:
    """It runs inside, finds the registry, and what it yields is kept."""
    ended: list[bool] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        async with app.state.registry.acquire("events") as conn:
            await conn.execute("CREATE TABLE t (x)")
        yield {"mine": 5}
        ended.append(app.state.registry.status().closed)

    app = FastAPI(lifespan=lifespan(connections_file(), inner=own))
    show_names(app)

    @app.get("/mine")
    async def mine(request: Request) -> int:
        value: int = request.state.mine
        return value

    with TestClient(app) as client:
        assert client.get("/mine").json() == 5
        assert client.get("/names").json() == ["events"]
    assert ended == [False]


def test_it_can_be_part_of_another_lifespan(connections_file: Written) -> None:
    """`opened` alone puts the registry at app.state, which is where handlers look second."""

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        async with opened(app, lambda: ConnectionPoolRegistry.from_file(connections_file())):
            yield

    app = FastAPI(lifespan=own)
    show_names(app)

    with TestClient(app) as client:
        assert client.get("/names").json() == ["events"]


def test_a_bad_file_stops_the_start(connections_file: Written) -> None:
    """A service that runs with no pools at all helps nobody."""
    app = FastAPI(lifespan=lifespan(connections_file(other={"type": "no-such-kind"})))

    with pytest.raises(ConfigError, match=r"other\.type"), TestClient(app):
        pass


def test_without_a_lifespan_the_error_says_what_to_do() -> None:
    app = FastAPI()
    show_names(app)

    with pytest.raises(RuntimeError, match=r"millpond\.web\.lifespan"):
        TestClient(app).get("/names")


def test_the_registry_is_closed_when_the_applications_own_end_fails(connections_file: Written) -> None:
    registry = ConnectionPoolRegistry.from_file(connections_file())

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise ValueError("mine")

    app = FastAPI(lifespan=lifespan(registry, inner=own))

    with pytest.raises(ValueError, match="mine"), TestClient(app):
        pass
    with pytest.raises(PoolClosed):
        registry.acquire("events")


@pytest.mark.parametrize("module", ["millpond.web", "millpond.gateway", "millpond.gateway.load"])
def test_without_the_extra_the_error_names_it(module: str) -> None:
    """Whichever part of it is imported."""
    program = f"""
import importlib.util
from millpond import MissingExtra
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "fastapi" else found(name, package)
try:
    import {module}
except MissingExtra as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=150)

    assert "pip install 'millpond[web]'" in ran.stdout
