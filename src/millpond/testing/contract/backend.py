"""What the contract has to be told of a backend: how to ask, to be slow, to be dirty, and who is there."""

from __future__ import annotations

import abc
import asyncio
import enum
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from millpond.driver import Configurable, Verdict
from millpond.settings import PoolSettings, ResetLevel

DEADLINE_S: Final = 10.0
"""How long (seconds) one waits for what must happen."""
_PAUSE_S: Final = 0.005

LEVELS: Final[tuple[ResetLevel, ...]] = ("none", "rollback", "full")


async def until(condition: Callable[[], Awaitable[bool]], *, within: float = DEADLINE_S) -> None:
    """Return as soon as the condition holds.

    Args:
        condition: asked again and again.
        within: seconds.

    Raises:
        TimeoutError: it does not hold in time.
    """
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - it is the other side's state, nobody tells us
            await asyncio.sleep(_PAUSE_S)


class Knows(enum.Enum):
    """What `is_closed()` can tell without asking the backend."""

    HANG_UPS = "hang-ups"  # also that the other side has closed, once the loop has read it
    OWN_ENDS = "own ends"  # what this side has closed or terminated
    NOTHING = "nothing"  # always False


class Backend(abc.ABC):
    """One backend, with nobody on it but the test that is running.

    What is abstract is what every contract asks for. The others say which one needs them; a backend that
    lacks one of them leaves that contract out.
    """

    knows: Knows = Knows.HANG_UPS
    """What `is_closed()` can tell."""
    tells_permanent: bool = True
    """Whether `is_permanent()` knows an unknown database when it sees one; a pair of functions does not."""
    noise: tuple[str, ...] = ()
    """Parts of what the client library is known to tell the loop's exception handler for no good reason."""
    after_question: Mapping[str, Verdict] = MappingProxyType({})
    """What `after_lease()` says when all went well, by reset level; one that is missing is not checked."""
    after_failure: Mapping[str, Verdict] = MappingProxyType({})
    """The same after a request that the backend refused."""
    after_cancel: Mapping[str, Verdict] = MappingProxyType({})
    """The same after a request that was cancelled in the middle."""
    after_begin: Mapping[str, Verdict] = MappingProxyType({})
    """The same in an open transaction."""
    nowhere: Mapping[str, Any] = MappingProxyType({"database": "no-such-place"})
    """Options that can never work: an unknown database."""
    nowhere_said: str = "no-such-place"
    """What the error says then."""

    @abc.abstractmethod
    def driver(self, **options: Any) -> Any:
        """A driver for this backend; `options` change how it is configured."""

    @abc.abstractmethod
    async def ask(self, conn: Any, number: int) -> int:
        """Ask a question whose answer is `number`."""

    @abc.abstractmethod
    async def start_slow(self, conn: Any) -> asyncio.Task[Any]:
        """A task that makes a request of half a minute or more, which the backend is working on already."""

    @abc.abstractmethod
    async def sessions(self) -> int:
        """How many sessions of this test's the backend sees.

        Ask the backend, not the driver; and cheaply, for this is asked again and again.
        """

    # For a RemoteContract.

    unreachable: Mapping[str, Any] = MappingProxyType({})
    """Options with which nobody answers now, though somebody may later: a port where nobody listens."""
    wrong_secret: Mapping[str, Any] = MappingProxyType({})
    """Options with a secret that the backend refuses; empty: this kind has no secret."""
    options: Mapping[str, Any] = MappingProxyType({})
    """All options of a driver that leads here, as JSON can carry them: another process makes one of them."""

    async def end_all(self) -> None:
        """Have the backend hang up on every session of this test's."""
        raise NotImplementedError("a RemoteContract needs Backend.end_all()")

    # For a SessionContract.

    async def begin(self, conn: Any) -> None:
        """Open a transaction, unless one is open, and write a row in it."""
        raise NotImplementedError("a SessionContract needs Backend.begin()")

    async def rows(self, conn: Any) -> int:
        """How many rows this connection sees; the uncommitted ones of its own transaction too."""
        raise NotImplementedError("a SessionContract needs Backend.rows()")

    async def fail(self, conn: Any) -> None:
        """Make a request that the backend refuses, and that leaves the connection as it was; raises."""
        raise NotImplementedError("a SessionContract needs Backend.fail()")

    async def change(self, conn: Any) -> None:
        """Change everything about the session that a full reset covers: settings, temporary things."""
        raise NotImplementedError("a SessionContract needs Backend.change()")

    async def state(self, conn: Any) -> Any:
        """The session as its borrower sees it; `change` changes it, equal values mean the same state."""
        raise NotImplementedError("a SessionContract needs Backend.state()")

    # What follows from these.

    def at_level(self, level: ResetLevel, **options: Any) -> Any:
        """A driver whose resets go to `level`, if it knows levels."""
        driver = self.driver(**options)
        return driver.configured(PoolSettings(reset=level)) if isinstance(driver, Configurable) else driver

    async def cancel_slow(self, conn: Any) -> asyncio.CancelledError:
        """Cancel a slow request in the middle, as the cancellation of a borrower would; returns it."""
        task = await self.start_slow(conn)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return error
        raise AssertionError("the slow request ended before it was cancelled")

    async def given_back(self, driver: Any, conn: Any, error: BaseException | None) -> Any:
        """The connection that the next borrower gets after a lease of `conn` that ended with `error`."""
        match driver.after_lease(conn, error):
            case Verdict.RESET:
                await asyncio.wait_for(driver.reset(conn), DEADLINE_S)
            case Verdict.DISCARD | Verdict.DISCARD_ALL:
                driver.terminate(conn)
                conn = await driver.connect()
        return conn

    async def gone(self, *, left: int = 0, within: float = DEADLINE_S) -> None:
        """Return when the backend sees as many sessions as `left`.

        Raises:
            TimeoutError: it sees others after `within` seconds.
        """

        async def is_so() -> bool:
            return await self.sessions() == left

        await until(is_so, within=within)
