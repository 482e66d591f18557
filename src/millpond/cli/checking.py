"""Is each connection there? Asked once, all at the same time."""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from millpond.driver import Versioned
from millpond.errors import describe, masked

if TYPE_CHECKING:
    from millpond.registry import ConnectionPoolRegistry

# Which key of the configuration an error points at, by the name of its type or of one it is derived from.
_KEYS: Final = {
    "InvalidPasswordError": "password",
    "InvalidAuthorizationSpecificationError": "user",
    "InvalidCatalogNameError": "database",
    "CannotOpen": "database",
    "AuthenticationError": "password",
    "BadDatabase": "database",
    "gaierror": "host",
    "ConnectionRefusedError": "port",
    # A Unix socket: the host is its directory.
    "FileNotFoundError": "host",
    "NotADirectoryError": "host",
    "PermissionError": "host",
}
# And by kind, where all that can go wrong is about one key.
_LONGEST_VERSION: Final = 40
_KEYS_OF_KINDS: Final = {"sqlite": "database"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of asking one connection.

    Attributes:
        name: of the connection.
        kind: its type.
        seconds: how long the answer took.
        fault: what is wrong, in one line that begins with the name; None: nothing.
        is_permanent: only a changed configuration can help.
        version: what the server calls itself; empty where the driver cannot tell.
    """

    name: str
    kind: str
    seconds: float
    fault: str | None = None
    is_permanent: bool = False
    version: str = ""

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
                version = await _version(driver, conn)
                await driver.close(conn)
            finally:
                driver.terminate(conn)
    except TimeoutError:
        said, is_permanent, key = f"no answer within {timeout:g} s", False, None
    except Exception as error:
        said, is_permanent = describe(error, getattr(driver, "redact", None)), driver.is_permanent(error)
        key = _key(kind, driver, error)
    else:
        return Checked(name, kind, seconds, version=version)
    where = f"{name}.{key}" if key else name
    what = "is refused" if is_permanent else "cannot be reached"
    return Checked(name, kind, time.monotonic() - started, f"{where}: {what}: {said}", is_permanent)


async def _version(driver: object, conn: object) -> str:
    """What the server calls itself, in one short line; whoever may not ask for it is no fault."""
    if not isinstance(driver, Versioned):
        return ""
    try:
        said = await driver.server_version(conn)
    except Exception:
        return ""
    return masked(" ".join(said.split()))[:_LONGEST_VERSION]


def _key(kind: str, driver: object, error: Exception) -> str | None:
    """The key that an error is about, if it is one that this kind has."""
    known = inspect.signature(type(driver)).parameters
    begins_with = str(error).partition(": ")[
        0
    ]  # so do the errors of our own drivers that are about an option
    by_type = (_KEYS.get(each.__name__) for each in type(error).__mro__)
    # A driver whose library has one type for many errors tells them apart itself.
    told = driver.key_of(error) if hasattr(driver, "key_of") else None
    candidates = (begins_with, told, *by_type, _KEYS_OF_KINDS.get(kind))
    return next((key for key in candidates if key in known), None)
