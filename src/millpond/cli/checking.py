"""Is each connection there? Asked once, all at the same time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from millpond.errors import describe

if TYPE_CHECKING:
    from millpond.registry import ConnectionPoolRegistry

# Which key of the configuration an error points at, by the name of its type.
_KEYS: Final = {
    "InvalidPasswordError": "password",
    "InvalidAuthorizationSpecificationError": "user",
    "InvalidCatalogNameError": "database",
    "CannotOpen": "database",
    "gaierror": "host",
    "ConnectionRefusedError": "port",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of asking one connection.

    Attributes:
        name: of the connection.
        kind: its type.
        seconds: how long the answer took.
        fault: what is wrong, in one line that begins with the name; None: nothing.
        is_permanent: only a changed configuration can help.
    """

    name: str
    kind: str
    seconds: float
    fault: str | None = None
    is_permanent: bool = False

    @property
    def word(self) -> str:
        """What came of it, in a word."""
        if self.fault is None:
            return "ok"
        return "misconfigured" if self.is_permanent else "unreachable"


async def check_all(registry: ConnectionPoolRegistry, *, timeout: float) -> list[Checked]:
    """Open one connection of each name, once, and close it again; in the order of the registry.

    The pools are not asked: they would try again and again, and open more than
    one. They open nothing by this.

    Args:
        registry: the connections.
        timeout: seconds that each has to answer.
    """
    return await asyncio.gather(*(_check(registry, name, timeout) for name in registry.names))


async def _check(registry: ConnectionPoolRegistry, name: str, timeout: float) -> Checked:
    kind = registry.kind(name)
    driver = registry.get_pool(name).driver
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            conn = await driver.connect()
            try:
                await driver.ping(conn)
                seconds = time.monotonic() - started
                await driver.close(conn)
            finally:
                driver.terminate(conn)
    except TimeoutError:
        said, is_permanent = f"no answer within {timeout:g} s", False
    except Exception as error:
        said, is_permanent = describe(error, getattr(driver, "redact", None)), driver.is_permanent(error)
    else:
        return Checked(name, kind, seconds)
    key = _KEYS.get(said.partition(":")[0])
    where = f"{name}.{key}" if key else name
    what = "is refused" if is_permanent else "cannot be reached"
    return Checked(name, kind, time.monotonic() - started, f"{where}: {what}: {said}", is_permanent)
