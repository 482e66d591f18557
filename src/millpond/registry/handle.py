"""A pool by its name: looked up at each use, so that a handle kept for years is right."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from millpond._core.lease import Acquire, Lease
from millpond._core.pool import ConnectionPool
from millpond.errors import Holder
from millpond.events import Listener
from millpond.registry.named import Named
from millpond.settings import UNSET, Change, PoolSettings, Timeout, Unset
from millpond.status import PoolCheck, PoolStats, PoolStatus


class PoolHandle:
    """This does what a pool does, with whichever pool its name stands for at that moment.

    Made by `registry.get_pool(name)`. It has no `close`: the pool is the
    registry's, see `registry.remove(name)` and `registry.close()`. When the
    name is removed and given again, the handle works with the new one; while
    there is none, every use raises `UnknownConnection`, and once the registry
    is closed `PoolClosed`. What each method does and raises is the pool's to
    document.
    """

    __slots__ = ("_find", "_name", "_owner_of")

    def __init__(
        self,
        name: str,
        find: Callable[[str], Named],
        owner: Callable[[str, Any], ConnectionPool[Any]],
    ) -> None:
        self._name = name
        self._find = find
        self._owner_of = owner

    def __repr__(self) -> str:
        return f"<PoolHandle {self._name!r}>"

    @property
    def _pool(self) -> ConnectionPool[Any]:
        return self._find(self._name).pool()

    def _owner(self, conn: Any) -> ConnectionPool[Any]:
        return self._owner_of(self._name, conn)

    @property
    def name(self) -> str:
        """The connection's name."""
        return self._name

    @property
    def kind(self) -> str:
        """The connection's kind: `postgresql`."""
        return self._find(self._name).kind

    @property
    def settings(self) -> PoolSettings:
        """The settings of the pool in use."""
        return self._pool.settings

    @property
    def driver(self) -> Any:
        """The driver of the pool in use."""
        return self._pool.driver

    async def initialize(self, timeout: float | None = None) -> None:
        """Open the pool now and not at the first acquire."""
        await self._pool.initialize(timeout)

    def acquire(self, timeout: Timeout = UNSET) -> Acquire[Any]:
        """Borrow a connection: `async with handle.acquire() as conn`, or `conn = await handle.acquire()`."""
        return self._pool.acquire(timeout)

    def release(
        self, conn: Any, *, error: BaseException | Unset | None = UNSET, discard: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Give back what `await handle.acquire()` brought; left out, `error` is the one being handled."""
        return self._owner(conn).release(conn, error=error, discard=discard)

    async def lease(self, timeout: Timeout = UNSET) -> Lease[Any]:
        """Borrow a connection as a lease, which knows how to give it back."""
        return await self._pool.lease(timeout)

    def report(self, conn: Any, error: BaseException) -> None:
        """Say that `error`, which was handled, tells something about `conn`."""
        self._owner(conn).report(conn, error)

    def detach(self, conn: Any) -> Any:
        """Keep `conn` for good; its place in the pool is free."""
        return self._owner(conn).detach(conn)

    def status(self) -> PoolStatus:
        """What the pool is doing now."""
        return self._pool.status()

    def stats(self) -> PoolStats:
        """What the pool has done."""
        return self._pool.stats()

    def holders(self) -> Sequence[Holder]:
        """Who holds what, since when; leases of older versions too, the oldest lease first."""
        held = [holder for pool in self._find(self._name).pools() for holder in pool.holders()]
        return tuple(sorted(held, key=lambda holder: -holder.age))

    async def check(self, timeout: float = 5.0) -> PoolCheck:
        """Whether the backend is there."""
        return await self._pool.check(timeout)

    def apply(self, settings: PoolSettings) -> Change:
        """Change the running pool's settings, those that can be changed in place."""
        return self._find(self._name).apply(settings)

    def resize(self, *, min_size: int | Unset = UNSET, max_size: int | Unset = UNSET) -> Change:
        """Change the running pool's sizes."""
        given = {"min_size": min_size, "max_size": max_size}
        sizes = {name: size for name, size in given.items() if not isinstance(size, Unset)}
        return self.apply(self.settings.changed(**sizes))

    def clear(self, spread: float = 0.0) -> None:
        """Begin a new generation of connections."""
        self._pool.clear(spread)

    def pause(self, mode: Literal["queue", "refuse"] = "queue") -> None:
        """Lend nothing for now."""
        self._pool.pause(mode)

    def resume(self) -> None:
        """Lend again, after a pause or a drain."""
        self._pool.resume()

    async def drain(self, timeout: float | None = 30.0) -> None:
        """Lend nothing more, and wait until what is out has come back."""
        await self._pool.drain(timeout)

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of every event of this name's pools, later versions included."""
        self._find(self._name).add_listener(listener)
