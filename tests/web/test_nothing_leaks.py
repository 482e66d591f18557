"""Secrets in a configuration that is right, at servers where everything goes wrong: nobody sees one."""

import asyncio
import json
import logging
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from millpond.drivers.kinds import Kinds
from millpond.gateway.service import create_app
from millpond.registry import ConnectionPoolRegistry
from millpond.web import add_exception_handlers, connection, guessing, lifespan
from tests.registry.conftest import bare_driver
from tests.registry.known import KINDS

PASSWORD: Final = "Xq7 vPlanted@Grain/%"
TOKEN: Final = "Zz9PlantedAdmin"
QUERY: Final = "Yy8PlantedQuery"
FORMS: Final = ("keywords", "url")
# Each kind with each library that it has, and one from a package that somebody else has written.
VARIANTS: Final = (
    *((kind, None) for kind in KINDS), ("postgresql", "psycopg"), ("mysql", "aiomysql"), ("granary", None),
)  # fmt: skip
GRANARY: Final = bare_driver(
    "granary",
    "self, *, host='127.0.0.1', port=1, user='', token=None",
    "self.at, self.words = (host, port), (user, token)",
    """from urllib.parse import urlsplit, unquote
        parts = urlsplit(url)
        words = {"user": parts.username, "token": unquote(parts.password)}
        return {"host": parts.hostname, "port": parts.port, **words}

    async def connect(self):
        import asyncio
        reader, writer = await asyncio.open_connection(*self.at)
        writer.write(repr(self.words).encode() + b"\\r\\n")
        try:
            said = await reader.read(200)
        finally:
            writer.transport.abort()
        raise ConnectionError(f"{self.words} at {self.at}: {said!r}") from RuntimeError(self.words)

    async def ping(self, conn): raise AssertionError
    async def reset(self, conn): raise AssertionError
    async def close(self, conn): raise AssertionError
    def terminate(self, conn): pass
    def is_closed(self, conn): return True
    def after_lease(self, conn, error): raise AssertionError
    def is_permanent(self, error): return False
    def redact(self, text):
        for word in self.words:
            text = text.replace(word, "***") if word else text
        return text
""",
)
# What an error may repeat of it: as it is, quoted for a URL, in Python's own spelling, in part.
TRACES: Final = (PASSWORD, quote(PASSWORD, safe=""), "vPlanted", TOKEN, QUERY)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that hangs up at once."""
    writer.close()


async def mirrors(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that sends back whatever it is told, passwords too."""
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that speaks another protocol, and quotes what it was told in it."""
    writer.write(b"-ERR what do you mean\r\n")
    said = await reader.read(4096)
    writer.write(b"-ERR no such command: " + said + b"\r\n")
    await writer.drain()


async def is_mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that listens and says nothing."""
    while await reader.read(4096):
        pass


SERVERS: Final[dict[str, Serve | None]] = {
    "refuses": None, "closes": closes, "mirrors": mirrors, "babbles": babbles, "is mute": is_mute,
}  # fmt: skip


@asynccontextmanager
async def served(serve: Serve | None) -> AsyncIterator[int]:
    """The port of such a server."""
    clients: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        with suppress(ConnectionError):
            try:
                await (serve or closes)(reader, writer)
            finally:
                writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if serve is None:
        server.close()
        await server.wait_closed()
    yield port
    server.close()
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


def configured(kind: str, library: str | None, port: int, form: str) -> dict[str, Any]:
    """A right configuration of this kind, with every secret that it takes."""
    driver = Kinds().get(kind)
    pool = {"connect_timeout": 0.1, "connect_retries": 0, "acquire_timeout": 0.3, "min_size": 0}
    common = {"pool": pool, "type": kind, **({"library": library} if library else {})}
    if kind == "sqlite":
        return {**common, "database": "/proc/no-such-place/x.db"}
    secrets = dict.fromkeys(driver.secret_options, PASSWORD)
    if form == "url" and secrets:
        userinfo = f"miller:{quote(PASSWORD, safe='')}@"
        tail = f"mill?application_name={QUERY}" if kind in ("postgresql", "mysql") else ""
        return {**common, "url": f"{driver.schemes[0]}://{userinfo}127.0.0.1:{port}/{tail}"}
    user = {"user": "miller"} if secrets else {}
    return {**common, "host": "127.0.0.1", "port": port, **user, **secrets}


def shown(error: BaseException) -> Iterator[str]:
    """All that can be got out of an error, and of those it hangs on."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), *map(repr, one.args), *getattr(one, "__notes__", ()))
        yield from (repr(value) for value in vars(one).values())
        yield "".join(traceback.format_exception(one))
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
    yield str(pickle.loads(pickle.dumps(error)))


async def everything_fails(registry: ConnectionPoolRegistry, said: list[str]) -> None:
    """Use the connection in every way there is; what is said goes onto the list."""
    handle = registry.get_pool("events")
    handle.add_listener(lambda event: said.extend([repr(event), str(event)]))

    async def by_name() -> None:
        async with registry.acquire("events"):
            pass

    for use in (by_name, handle.acquire, handle.lease, handle.initialize, by_name):
        try:
            await use()
        except Exception as error:
            said.extend(shown(error))
    check = await registry.check("events", timeout=0.2)
    said.extend([repr(check), str(check.error)])
    named = registry.named["events"]
    for each in (registry, handle, named, named.config, handle.driver, named.pool(), handle.settings):
        said.extend([repr(each), str(each)])
    said.extend([repr(handle.status()), json.dumps(registry.status().as_dict()), repr(handle.stats())])


async def pages(registry: ConnectionPoolRegistry, said: list[str]) -> None:
    """Every page of a service that says anything about it."""
    environ = {"CONFIG_RELOAD_ADMIN_TOKEN": TOKEN}
    app = create_app(registry, {}, environ=environ)
    allowed = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        for method, path in (
            ("GET", "/health"), ("GET", "/health/db"), ("GET", "/openapi.json"), ("GET", "/admin/status"),
            ("GET", "/admin/config-status"), ("POST", "/admin/reload-config"), ("GET", "/nothing"),
            ("POST", "/admin/pools/events/resize"), ("POST", "/admin/pools/events/clear"),
            ("POST", "/admin/pools/events/drain"), ("GET", "/admin/config-status"),
        ):  # fmt: skip
            for headers in ({}, allowed, {"Authorization": "Bearer wrong"}):
                answer = await client.request(method, path, headers=headers)
                said.extend([answer.text, repr(answer.headers)])


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "library"), VARIANTS)
async def test_no_secret_comes_out_when_everything_fails(
    kind: str,
    library: str | None,
    form: str,
    server: str,
    tmp_path: Path,
    install: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors with all they hang on, logs of every library, pages, events, snapshots, pickles."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(guessing, "_HELD_S", 0.0)
    if kind == "granary":
        install("granary_pool", "granary", GRANARY)
    said: list[str] = []
    async with served(SERVERS[server]) as port:
        path = tmp_path / "connections.json"
        path.write_text(json.dumps({"events": configured(kind, library, port, form)}))
        async with ConnectionPoolRegistry.from_file(path) as registry:
            await everything_fails(registry, said)
        if server == "babbles":
            await pages(ConnectionPoolRegistry.from_file(path), said)

    said += [record.getMessage() for record in caplog.records]
    said += [str(record.exc_info) for record in caplog.records if record.exc_info]
    assert len(said) > 30
    for trace in TRACES:
        found = [line for line in said if trace in line]
        assert not found, f"{trace!r} stands in {found[0]!r}"


async def test_a_page_for_an_error_that_nobody_expected_says_nothing(tmp_path: Path) -> None:
    """An application that raises what Millpond raised, with a secret in its own words."""
    path = tmp_path / "connections.json"
    path.write_text(json.dumps({"events": {"type": "sqlite", "database": str(tmp_path / "x.db")}}))
    app = FastAPI(lifespan=lifespan(path))
    add_exception_handlers(app)

    @app.get("/fails")
    async def fails(db: Annotated[Any, connection("events")]) -> None:
        raise RuntimeError(PASSWORD)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://x") as client,
    ):
        answer = await client.get("/fails")

    assert answer.status_code == 500
    assert PASSWORD not in answer.text
