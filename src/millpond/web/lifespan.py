"""A registry as long-lived as the application: there before the first request, closed after the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from millpond.registry import ConnectionPoolRegistry
from millpond.registry.reloader import RegistrySource, Reloader

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection

Source: TypeAlias = ConnectionPoolRegistry | str | PathLike[str] | Callable[[], ConnectionPoolRegistry]
"""A registry, the path of its configuration file, or a function that makes one."""

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
"""What Starlette and FastAPI take as `lifespan`: one that yields state for the requests."""
InnerLifespan: TypeAlias = Lifespan | Callable[[Any], AbstractAsyncContextManager[None]]
"""A lifespan that may also yield nothing."""


def lifespan(
    source: Source,
    *,
    close_timeout: float | None = None,
    inner: InnerLifespan | None = None,
    watch: bool = False,
    debounce: float = 3.0,
) -> Lifespan:
    """A lifespan for `FastAPI(lifespan=...)` with a registry in it.

    Handlers find the registry at `request.state.registry` and at
    `app.state.registry`.

    Args:
        source: the registry, or where it comes from. A registry that was passed
            as an object is closed at the end, so that such an application
            starts once; a path or a function makes a new one at each start.
        close_timeout: as for `opened`.
        inner: a lifespan of the application's own, run inside; it may use
            `app.state.registry`, and what it yields is kept.
        watch: as for `opened`.
        debounce: as for `opened`.

    Raises:
        ConfigError: at start: the file cannot be used.
        ValueError: at start: as for `opened`.
    """

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        async with opened(
            app, source, close_timeout=close_timeout, watch=watch, debounce=debounce
        ) as registry:
            if inner is None:
                yield {"registry": registry}
            else:
                async with inner(app) as state:
                    yield {"registry": registry, **(state or {})}

    return run


@asynccontextmanager
async def opened(
    app: Starlette,
    source: Source,
    *,
    close_timeout: float | None = None,
    watch: bool = False,
    debounce: float = 3.0,
) -> AsyncIterator[ConnectionPoolRegistry]:
    """A registry at `app.state.registry` for the length of the block; for a lifespan that you write yourself.

    To have it at `request.state.registry` too, let that lifespan yield
    `{"registry": registry}`.

    Args:
        app: the application.
        source: the registry, or where it comes from.
        close_timeout: seconds that leases still out at the end have to come
            back; None: each pool's own setting.
        watch: reload whenever the registry's file, or one that a `${file:...}` in it names, has changed.
        debounce: how long the files must have been at rest before that, seconds.

    Raises:
        ConfigError: the file cannot be used.
        ValueError: a file is to be watched, and the registry did not come from one.
        MissingExtra: a file is to be watched, and watchfiles is not installed.
    """
    registry = _made(source)
    if watch and registry.path is None:
        raise ValueError("nothing can be watched: the registry did not come from a file")
    reloader = Reloader(RegistrySource(registry), debounce) if watch else None
    app.state.registry = registry
    try:
        if reloader is not None:
            app.state.reloader = reloader
            reloader.watch()
        yield registry
    finally:
        del app.state.registry
        if reloader is not None:
            del app.state.reloader
            await reloader.stop()
        await registry.close(close_timeout)


def registry_of(connection: HTTPConnection) -> ConnectionPoolRegistry:
    """The registry of the application that serves this request or WebSocket.

    Raises:
        RuntimeError: there is none, because no lifespan has run.
    """
    found = connection.scope.get("state", {}).get("registry")
    if found is None:
        found = getattr(connection.app.state, "registry", None)
    if not isinstance(found, ConnectionPoolRegistry):
        raise RuntimeError(
            "there is no registry: give the application a lifespan (millpond.web.lifespan) and run it "
            "under a server, or under a test client that runs lifespans"
        )
    return found


def _made(source: Source) -> ConnectionPoolRegistry:
    if isinstance(source, ConnectionPoolRegistry):
        return source
    if isinstance(source, str | PathLike):
        return ConnectionPoolRegistry.from_file(source)
    return source()
