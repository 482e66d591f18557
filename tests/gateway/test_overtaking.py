"""Reloads that overtake each other, and connections that become of another kind, under one application."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from millpond.gateway import create_app, read_webhooks
from millpond.registry import ConnectionPoolRegistry
from millpond.registry.reloader import Outcome, Reloader
from tests.gateway.service import hook
from tests.gateway.test_redis import connection
from tests.gateway.traffic import eventually
from tests.servers import RedisServer

POOL = {"min_size": 0, "max_size": 1}


def to_sqlite(path: str) -> dict[str, Any]:
    """A hook that stores in the SQLite database `events`."""
    return hook(path, "sqlite", "events", module={"create_table": True})


def to_redis(path: str) -> dict[str, Any]:
    """A hook that stores in the Redis `events`."""
    return hook(path, "redis", "events", module={"action": "list_push", "key": "came"})


@dataclass
class Gateway:
    """An application, its files, and a client."""

    directory: Path
    registry: ConnectionPoolRegistry
    app: FastAPI
    client: httpx2.AsyncClient

    @property
    def reloader(self) -> Reloader:
        found: Reloader = self.app.state.reloader
        return found

    def write(
        self, connections: dict[str, Any] | None = None, hooks: list[dict[str, Any]] | None = None
    ) -> None:
        """Write the files."""
        write(self.directory, connections, hooks)

    async def begin(self, **wanted: Any) -> asyncio.Task[Outcome]:
        """Begin a reload whose proof has to wait for a lease that is out."""
        task = asyncio.create_task(self.reloader.reload(**wanted))
        await eventually(lambda: self.registry._reloads._proof is not None, "the proof")
        return task

    async def post(self, path: str) -> int:
        """Send one event; the answer's status."""
        return (await self.client.post(path, json={"n": 1})).status_code


def write(directory: Path, connections: dict[str, Any] | None, hooks: list[dict[str, Any]] | None) -> None:
    """Write what is given into the files."""
    if connections is not None:
        (directory / "connections.json").write_text(json.dumps(connections))
    if hooks is not None:
        (directory / "webhooks.json").write_text(json.dumps({"webhooks": hooks}))


@asynccontextmanager
async def gateway(
    directory: Path, connections: dict[str, Any], hooks: list[dict[str, Any]], *, has_file: bool = True
) -> AsyncIterator[Gateway]:
    """An application of these, in this process."""
    write(directory, connections, hooks)
    registry = ConnectionPoolRegistry.from_file(directory / "connections.json")
    file = read_webhooks(directory / "webhooks.json")
    app = create_app(registry, file.hooks(registry), environ={}, webhooks=file if has_file else None)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as client,
    ):
        yield Gateway(directory, registry, app, client)


def sqlite(directory: Path, **pool: Any) -> dict[str, Any]:
    """A connection to a SQLite database of one connection."""
    return {"type": "sqlite", "database": str(directory / "events.db"), "pool": {**POOL, **pool}}


def redis(server: RedisServer) -> dict[str, Any]:
    """A connection to a Redis."""
    return {**connection(server), "pool": POOL}


async def test_a_reload_of_connections_alone_inherits_the_hooks_of_the_one_it_overtakes(
    tmp_path: Path,
) -> None:
    """Whoever wanted them was told `superseded`, and has not taken them back."""
    async with gateway(tmp_path, {"events": sqlite(tmp_path)}, [to_sqlite("/old")]) as served:
        async with served.registry.acquire("events"):
            served.write({"events": sqlite(tmp_path, reset="none")}, [to_sqlite("/new")])
            first = await served.begin()
            second = asyncio.create_task(served.reloader.reload(webhooks=False))
            assert (await first).reloaded.connections.superseded
        outcome = await second
        assert outcome.ok
        assert served.reloader.status().failures == 0
        assert outcome.reloaded.webhooks.added == ("/new",)
        assert [await served.post(path) for path in ("/old", "/new")] == [404, 201]
        assert served.registry.status().active[0].version == 2

        served.write(hooks=[to_sqlite("/newer")])
        assert (await served.reloader.reload(webhooks=False)).reloaded.webhooks is None
        assert await served.post("/new") == 201


async def test_hooks_that_came_later_are_not_undone_by_a_reload_that_ends_later(tmp_path: Path) -> None:
    """It read the file before they were written."""
    async with gateway(tmp_path, {"events": sqlite(tmp_path)}, [to_sqlite("/old")]) as served:
        async with served.registry.acquire("events"):
            served.write({"events": sqlite(tmp_path, reset="none")}, [to_sqlite("/new")])
            first = await served.begin()
            served.write(hooks=[to_sqlite("/newer")])
            assert (await served.reloader.reload(connections=False)).ok
        assert (await first).ok
        assert [await served.post(path) for path in ("/new", "/newer")] == [404, 201]


async def test_connections_that_do_not_fit_the_hooks_that_are_coming_are_refused(tmp_path: Path) -> None:
    """And the reload that brings those hooks goes on."""
    connections = {"events": sqlite(tmp_path), "more": sqlite(tmp_path)}
    async with gateway(tmp_path, connections, [to_sqlite("/old")]) as served:
        async with served.registry.acquire("events"):
            more = hook("/more", "sqlite", "more", module={"create_table": True})
            served.write({**connections, "events": sqlite(tmp_path, reset="none")}, [to_sqlite("/old"), more])
            first = await served.begin()
            served.write({"events": sqlite(tmp_path)})
            refused = await served.reloader.reload(webhooks=False)
            assert "there is no connection of this name" in refused.reloaded.problems[0]
        assert (await first).ok
        assert await served.post("/more") == 201


async def test_hooks_change_in_the_same_step_as_a_connection_that_becomes_of_another_kind(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """While another connection is proved, requests are served as before: by the old hook, from SQLite."""
    others = {"other": sqlite(tmp_path)}
    async with gateway(tmp_path, {"events": sqlite(tmp_path), **others}, [to_sqlite("/events")]) as served:
        assert await served.post("/events") == 201
        async with served.registry.acquire("other"):
            served.write(
                {"events": redis(redis_server), "other": sqlite(tmp_path, reset="none")},
                [to_redis("/events")],
            )
            reload = await served.begin()
            await eventually(lambda: "other" in str(served.registry._reloads._proof), "the other's proof")
            assert await served.post("/events") == 201
            assert served.registry.kind("events") == "sqlite"
        outcome = await reload
        assert outcome.ok
        assert set(outcome.reloaded.connections.changed) == {"events", "other"}
        assert served.registry.kind("events") == "redis"
        assert await served.post("/events") == 201
        await served.registry.wait_closed("events", 1)


async def test_a_request_that_began_before_its_connection_became_of_another_kind_is_told_to_return(
    tmp_path: Path, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with Retry-After: its hook cannot use what it got, and the one that can is there now."""
    async with gateway(tmp_path, {"events": sqlite(tmp_path)}, [to_sqlite("/events")]) as served:
        async with served.registry.acquire("events"):
            served.write({"events": redis(redis_server)}, [to_redis("/events")])
            reload = await served.begin()
            waiting = asyncio.create_task(served.client.post("/events", json={"n": 1}))
            await eventually(lambda: served.registry.get_pool("events").status().waiting == 1, "the request")
        assert (await reload).ok
        answer = await waiting
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "has become one of kind 'redis'" in caplog.text
        assert await served.post("/events") == 201


async def test_a_connection_keeps_its_kind_while_its_hooks_cannot_be_changed(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Another one could not be reached, and the new hooks need it: all of it stays as it was, and is told."""
    connections = {"events": sqlite(tmp_path), "other": sqlite(tmp_path)}
    async with gateway(tmp_path, connections, [to_sqlite("/events")]) as served:
        for name in connections:
            async with served.registry.acquire(name):
                pass
        lost = {"type": "redis", "host": "127.0.0.1", "port": 1, "pool": {**POOL, "connect_retries": 0}}
        module = {"action": "publish", "channel": "x"}
        served.write(
            {"events": redis(redis_server), "other": lost},
            [to_redis("/events"), hook("/other", "redis", "other", module=module)],
        )
        outcome = await served.reloader.reload()
        assert not outcome.ok
        assert set(outcome.reloaded.connections.errors) == {"events", "other"}
        assert "is of type 'sqlite'" in outcome.reloaded.problems[0]
        assert served.registry.kind("events") == "sqlite"
        assert await served.post("/events") == 201


@pytest.mark.parametrize("what", ["removed", "of another kind"])
async def test_hooks_that_came_from_no_file_are_not_stranded(
    tmp_path: Path, redis_server: RedisServer, what: str
) -> None:
    """An application that made its hooks itself keeps the connections that they use."""
    others = {"events": redis(redis_server)} if what != "removed" else {"other": sqlite(tmp_path)}
    async with gateway(
        tmp_path, {"events": sqlite(tmp_path)}, [to_sqlite("/events")], has_file=False
    ) as served:
        served.write(others)
        for webhooks in (True, False):
            refused = await served.reloader.reload(webhooks=webhooks)
            assert "is used by hook /events" in refused.reloaded.problems[0]
        assert await served.post("/events") == 201


@asynccontextmanager
async def slow_request(served: Gateway, path: str) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[int]]]:
    """A request whose body is under way until the event is set; the status of its answer."""
    go_on, came = asyncio.Event(), asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield b'{"n": '
        came.set()
        await go_on.wait()
        yield b"1}"

    async def send() -> int:
        headers = {"Content-Type": "application/json"}
        return (await served.client.post(path, content=content(), headers=headers)).status_code

    task = asyncio.create_task(send())
    await came.wait()
    yield go_on, task
    go_on.set()
    await task


def with_another(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Connections and hooks of which the second of each will be taken away."""
    another = {"type": "sqlite", "database": str(directory / "another.db"), "pool": POOL}
    module = {"create_table": True}
    hooks = [to_sqlite("/events"), hook("/another", "sqlite", "another", module=module)]
    return {"events": sqlite(directory), "another": another}, hooks


@pytest.mark.parametrize("alone", [{}, {"connections": False}])
async def test_a_request_keeps_its_connection_whatever_is_reloaded_while_its_body_comes(
    tmp_path: Path, alone: dict[str, Any]
) -> None:
    """Also where it began under hooks that have been replaced more than once since, in whichever order."""
    connections, hooks = with_another(tmp_path)
    async with gateway(tmp_path, connections, hooks) as served, slow_request(served, "/another") as slow:
        go_on, answer = slow
        served.write(hooks=hooks[:1])
        assert (await served.reloader.reload(**alone)).ok
        served.write(connections={"events": connections["events"]})
        removal = asyncio.create_task(served.reloader.reload(webhooks=not alone))
        for _ in range(50):  # far more turns than it takes, for no backend is asked
            await asyncio.sleep(0)
        assert served.registry.names == ("events", "another")

        go_on.set()

        assert await answer == 201
        outcome = await removal
        assert outcome.reloaded.connections.removed == ("another",)
        assert served.registry.names == ("events",)


async def test_a_slow_sender_does_not_hold_up_the_next_reload(tmp_path: Path) -> None:
    """A removal waits for the requests of before; who comes with a new password does not wait for that."""
    connections, hooks = with_another(tmp_path)
    async with gateway(tmp_path, connections, hooks) as served, slow_request(served, "/another") as slow:
        go_on, answer = slow
        assert await served.post("/events") == 201
        served.write({"events": connections["events"]}, hooks[:1])
        removal = asyncio.create_task(served.reloader.reload())
        await eventually(lambda: "/another" not in served.app.router.default.hooks, "the removal")
        served.write({"events": sqlite(tmp_path, reset="none")})
        urgent = asyncio.create_task(served.reloader.reload())
        await eventually(lambda: served.registry.status().active[0].version == 2, "the next reload")
        assert (await removal).reloaded.connections.superseded
        assert not answer.done()
        assert "another" in served.registry.names

        go_on.set()

        assert await answer == 201
        assert (await urgent).reloaded.connections.removed == ("another",)
