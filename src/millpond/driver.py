"""What a backend must be able to do: the `Driver` protocol and the verdicts a driver gives.

No I/O and no policy here: the kernel decides when to call a driver, a driver
knows how one backend works. The two know each other through this module only.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import asyncio

    from millpond.settings import PoolSettings

C = TypeVar("C")


class Verdict(enum.Enum):
    """What becomes of a connection whose lease has just ended."""

    KEEP = "keep"  # clean: first waiter, or park it
    RESET = "reset"  # used: clean it before anyone else sees it
    DISCARD = "discard"  # broken, or nobody knows: terminate it
    DISCARD_ALL = "discard_all"  # this node is no longer the one: a new generation


@runtime_checkable
class Driver(Protocol[C]):
    """This knows one backend: how to connect, check, clean and close.

    What is not `async` here does no I/O. Every `async` call is run by the pool
    in a task of its own, under a timeout, and cancelled when that passes; a
    driver that is cancelled must not leave a half-made connection behind.
    """

    name: str

    async def connect(self) -> C:
        """Open one connection; raises whatever the client library raises."""
        ...

    async def ping(self, conn: C) -> None:
        """Make one cheap round trip; raises when the backend is dead or unfit (a demoted primary)."""
        ...

    async def reset(self, conn: C) -> None:
        """Bring the session back to clean, to the configured level; raises when it cannot."""
        ...

    async def close(self, conn: C) -> None:
        """Say goodbye politely and close."""
        ...

    def terminate(self, conn: C) -> None:
        """Cut the connection at once; never waits, never raises, may be called on a dead one."""
        ...

    def is_closed(self, conn: C) -> bool:
        """True when this side already knows that the connection is gone."""
        ...

    def after_lease(self, conn: C, error: BaseException | None) -> Verdict:
        """Judge a connection whose lease ended with `error` (None: it ended well)."""
        ...

    def is_permanent(self, error: BaseException) -> bool:
        """True when trying again cannot help: a wrong password, an unknown database."""
        ...


@runtime_checkable
class Configurable(Protocol[C]):
    """A driver that wants to know the settings of its pool, for example the reset level."""

    def configured(self, settings: PoolSettings) -> Driver[C]:
        """This driver, bound to `settings`: itself or a copy; it never changes the original."""
        ...


@runtime_checkable
class Redacting(Protocol):
    """A driver that knows which of its own words are secret."""

    def redact(self, text: str) -> str:
        """`text` with every secret of this driver masked."""
        ...


@runtime_checkable
class ForkAware(Protocol):
    """A driver that can name a connection's file descriptors.

    In the child of a fork the pool closes these without writing a byte, so
    that the parent's sessions stay untouched.
    """

    def filenos(self, conn: Any) -> tuple[int, ...]:
        """The descriptors that `conn` owns in this process; empty when there are none."""
        ...


@runtime_checkable
class Lingering(Protocol):
    """A driver whose `terminate()` goes on in tasks of its own, because there is only an async way to end.

    `pool.close()` waits for these, and cancels what takes too long.
    """

    def endings(self) -> Collection[asyncio.Task[Any]]:
        """The tasks that are still at it."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A driver whose `reset()` brings back the client's side too: factories, codecs, callbacks.

    `connect()` takes what there is for the state to come back to; a pool with `on_connect` calls `remember()`
    when that has run, before anybody borrows the connection.
    """

    def remember(self, conn: Any) -> None:
        """Take the present state of the client's side for the one to come back to; no I/O."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A driver that can say which server a connection leads to, for people: `millpond check` shows it."""

    async def server_version(self, conn: Any) -> str:
        """Product and version in a few words: `PostgreSQL 15.4`."""
        ...


class Kind(Driver[C], Protocol[C]):
    """A driver class that can be made from a configuration file or a URL.

    Registered in the entry point group `millpond.drivers` under its `kind`.
    Its `__init__` takes keyword arguments only; their names, annotations and
    defaults are the keys that a configuration of this kind may have.
    """

    kind: ClassVar[str]
    """What `"type"` says in a configuration: `"postgresql"`."""
    schemes: ClassVar[tuple[str, ...]]
    """URL schemes that mean this driver."""
    extra: ClassVar[str]
    """The extra that brings the client library."""
    default_sizes: ClassVar[tuple[int, int]]
    """`min_size` and `max_size` where the configuration names none."""
    secret_options: ClassVar[frozenset[str]]
    """Names of the arguments that hold secrets."""

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Keyword arguments for `__init__` that say what `url` says.

        Raises:
            ValueError: the URL is not one of this driver's; the text does not repeat its password.
        """
        ...
