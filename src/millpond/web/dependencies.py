"""FastAPI dependencies that lend connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from millpond.settings import UNSET, Timeout
from millpond.web.lifespan import registry_of


def connection(name: str, *, timeout: Timeout = UNSET) -> Any:
    """A dependency: a connection named `name`, held while the handler runs and no longer.

        Orders = Annotated[asyncpg.Connection, connection("orders")]

        @app.get("/orders/{number}")
        async def order(number: int, db: Orders) -> Order: ...

    The lease ends when the handler returns, before the answer is sent: a slow
    client keeps no connection from others, and an error on the way back can
    still become a 503. So the connection cannot be used while a
    `StreamingResponse` is being sent; take a lease inside the generator there.
    An error that the handler raises is seen by the pool, which then decides
    whether the connection is still good.

    Args:
        name: the connection's name in the registry.
        timeout: seconds to wait for it; left out = the pool's setting, None = no limit.

    Raises:
        PoolError: while the request is served: whatever `acquire` raises.
    """

    async def lent(request: HTTPConnection) -> AsyncIterator[Any]:
        async with registry_of(request).acquire(name, timeout=timeout) as conn:
            yield conn

    return Depends(lent, scope="function")
