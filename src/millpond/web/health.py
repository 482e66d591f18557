"""Health: from memory, which costs nothing, or by asking every backend."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from millpond.errors import PoolError
from millpond.status import BreakerState, PoolStatus
from millpond.web.lifespan import registry_of
from millpond.web.sparing import Sparing

if TYPE_CHECKING:
    from millpond.registry import ConnectionPoolRegistry
    from millpond.registry.status import VersionStatus

_MARGIN: Final = 1.0
"""Seconds beyond the timeout after which a check that does not end is given up."""
Word: TypeAlias = Literal["timeout", "circuit open", "unavailable"]
"""What a client may know of what is wrong with a backend."""


class PoolHealth(BaseModel):
    """A pool, as it knows itself."""

    status: Literal["ok", "degraded"]
    state: str = Field(description="The pool's state, or `not opened`.")
    breaker: BreakerState
    total: int = Field(description="Connections, in whatever state.")
    idle: int
    busy: int
    waiting: int = Field(description="Requests that wait for a connection.")
    healthy_connections: int
    max_connections: int | None = Field(description="Null when nobody has used the connection yet.")


class Health(BaseModel):
    """The service, as its pools know themselves. A pool that was never used is healthy."""

    status: Literal["ok", "degraded"]
    pools: dict[str, PoolHealth] = Field(description="By the name of the connection.")


class BackendHealth(BaseModel):
    """One backend that was asked."""

    status: Literal["healthy", "unhealthy"]
    latency_ms: float = Field(description="How long the answer, or its failure, took.")
    pool_size: int = Field(description="Connections, in whatever state.")
    pool_checked_out: int = Field(description="Connections that somebody holds.")
    pool_max_size: int | None = Field(description="Null when no pool could be made.")
    error: Word | None = None


class BackendsHealth(BaseModel):
    """Every backend, asked just now."""

    status: Literal["healthy", "unhealthy"]
    connections: dict[str, BackendHealth] = Field(description="By the name of the connection.")


def health_router(*, prefix: str = "/health", timeout: float = 5.0) -> APIRouter:
    """`GET /health` and `GET /health/db`.

    The first says `ok` or `degraded` from what the pools know, always with 200:
    it opens nothing, and a backend that is down does not make every instance
    of a service look dead. The second asks each backend and answers 503 when
    one is not there. What is wrong is said in a word; the rest is in the log.

    Args:
        prefix: where the routes stand.
        timeout: seconds that each backend has to answer.
    """
    router = APIRouter(prefix=prefix, tags=["health"])
    log = Sparing(logging.getLogger("millpond.web"))

    @router.head("", include_in_schema=False)
    @router.get("", response_model=Health)
    async def health(request: Request) -> Health:
        """How the pools are, from memory."""
        status = registry_of(request).status()
        pools = {each.name: _pool_health(each) for each in status.active}
        return Health(status="ok" if status.healthy else "degraded", pools=pools)

    @router.head("/db", include_in_schema=False)
    @router.get(
        "/db",
        response_model=BackendsHealth,
        responses={503: {"model": BackendsHealth, "description": "At least one backend is not there."}},
    )
    async def backends(request: Request, response: Response) -> BackendsHealth:
        """Ask every backend for a sign of life."""
        registry = registry_of(request)
        names = list(registry.names)
        answers = await asyncio.gather(*(_asked(registry, name, timeout, log) for name in names))
        pools = {each.name: each.pool for each in registry.status().active}
        found = {
            name: _backend_health(answer, pools.get(name))
            for name, answer in zip(names, answers, strict=True)
        }
        if any(each.status == "unhealthy" for each in found.values()):
            response.status_code = 503
            response.headers["Retry-After"] = "1"
            return BackendsHealth(status="unhealthy", connections=found)
        return BackendsHealth(status="healthy", connections=found)

    return router


def _pool_health(version: VersionStatus) -> PoolHealth:
    pool = version.pool
    return PoolHealth(
        status="ok" if version.healthy else "degraded",
        state=version.state,
        breaker=version.breaker,
        total=pool.total if pool else 0,
        idle=pool.idle if pool else 0,
        busy=pool.busy if pool else 0,
        waiting=pool.waiting if pool else 0,
        healthy_connections=pool.healthy_connections if pool else 0,
        max_connections=pool.max_connections if pool else None,
    )


class _Answer(NamedTuple):
    """What came of asking one backend: how long it took, and in a word what is wrong."""

    seconds: float
    error: Word | None


async def _asked(registry: ConnectionPoolRegistry, name: str, timeout: float, log: Sparing) -> _Answer:
    started = time.monotonic()
    error: Word | None = None
    said: str | None = None
    try:
        async with asyncio.timeout(timeout + _MARGIN):
            found = await registry.check(name, timeout)
        if not found.healthy:
            error = "circuit open" if found.source == "breaker" else "unavailable"
            said = found.error
    except TimeoutError:
        error = "timeout"
    except PoolError as failure:
        error, said = "unavailable", str(failure)
    seconds = time.monotonic() - started
    if error == "unavailable" and seconds >= timeout:
        error = "timeout"
    if error is not None:
        log.warning((name, error), "health of %s: %s (%s)", name, error, said or "no details")
    return _Answer(seconds, error)


def _backend_health(answer: _Answer, pool: PoolStatus | None) -> BackendHealth:
    return BackendHealth(
        status="healthy" if answer.error is None else "unhealthy",
        latency_ms=round(answer.seconds * 1000, 2),
        pool_size=pool.total if pool else 0,
        pool_checked_out=pool.busy if pool else 0,
        pool_max_size=pool.max_size if pool else None,
        error=answer.error,
    )
