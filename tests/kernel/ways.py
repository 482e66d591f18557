"""Ways through a pool, and what each costs: `python -m tests.kernel.ways` prints that as JSON.

Allocations are counted in a process of its own: what Python keeps ready depends on what it has done
before, and how long it takes to count its blocks on how many it has.
"""

import __future__

import ast
import asyncio
import inspect
import json
import sys
import textwrap
import types
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple
from unittest import mock

from millpond import ConnectionPool, PoolSettings
from millpond._core.announcing import Announcer
from millpond._core.lease import Acquire, Hold
from millpond._core.lending import Lender
from millpond._core.waiters import WaitQueue
from millpond._core.waiting import Waiting
from millpond.events import Event
from millpond.testing import run
from tests.kernel.instruments import Allocations, Counter

Pool = ConnectionPool[object]
Borrow = Callable[[Pool], Awaitable[None]]

TURNS: Final = 4
BORROWERS: Final = 5


class Cost(NamedTuple):
    """What the package does: bytecode instructions, Python calls, and blocks asked of the allocator."""

    instructions: int
    calls: int
    allocations: int


async def in_a_block(pool: Pool) -> None:
    """Lease once, the usual way."""
    async with pool.acquire():
        pass


async def explicitly(pool: Pool) -> None:
    """Lease once, the explicit way."""
    await pool.release(await pool.acquire())


async def by_identity(pool: Pool) -> None:
    """Lease once, with an object to end it by."""
    (await pool.lease()).release()


async def beside_another(pool: Pool) -> None:
    """Lease twice, the second time while the first has not ended."""
    async with pool.acquire(), pool.acquire():
        pass


async def in_turn(pool: Pool) -> None:
    """Lease again and again, among others who want the same."""
    for _ in range(TURNS):
        async with pool.acquire():
            await asyncio.sleep(0)


async def cleaned(_: object) -> None:
    """Reset a connection that has nothing to be reset."""


def listener(_: Event) -> None:
    """Hear it."""


class Story(NamedTuple):
    """One way through the pool.

    Attributes:
        borrow: what a borrower does.
        borrowers: how many do so at once.
        is_heard: somebody listens.
        settings: of the pool.
        is_cleaned: each connection is reset after its lease.
    """

    borrow: Borrow
    borrowers: int = 1
    is_heard: bool = False
    settings: PoolSettings = PoolSettings(max_size=2, min_size=2, eager_init=True)
    is_cleaned: bool = False

    def count(self, *, with_allocations: bool = False) -> Cost:
        """What it costs in a pool that is warm; of allocations the least of three times, or 0.

        Resets run in virtual time, or one that takes longer than others expect would add to it; and their
        allocations are not counted: what tasks and timers ask for differs from run to run.
        """
        if self.is_cleaned:
            return run(self._count(0), seed=None)
        return asyncio.run(self._count(3 if with_allocations else 0))

    async def _count(self, times: int) -> Cost:
        reset = cleaned if self.is_cleaned else None
        async with ConnectionPool.from_factory(object, reset=reset, settings=self.settings) as pool:
            if self.is_heard:
                pool.add_listener(listener)
            for _ in range(3):
                await self._tell(pool)
            with Counter() as counter:
                await self._tell(pool)
            allocations = []
            for _ in range(times):  # whatever disturbs only adds
                with Allocations(self.borrow) as found:
                    await self._tell(pool)
                allocations.append(found.found)
        return Cost(counter.instructions, counter.calls, min(allocations, default=0))

    async def _tell(self, pool: Pool) -> None:
        if self.borrowers == 1:
            await self.borrow(pool)
        else:
            await asyncio.gather(*(self.borrow(pool) for _ in range(self.borrowers)))


STORIES: Final = {
    "in a block": Story(in_a_block),
    "explicitly": Story(explicitly),
    "by identity": Story(by_identity),
    "heard": Story(in_a_block, is_heard=True),
    "heard, by identity": Story(by_identity, is_heard=True),
    "counted": Story(
        in_a_block, settings=PoolSettings(max_size=2, min_size=2, eager_init=True, max_uses=1000)
    ),
    "looked for": Story(
        in_a_block,
        settings=PoolSettings(max_size=2, min_size=2, eager_init=True, leak_detection_threshold=60.0),
    ),
    "shared": Story(
        in_a_block, settings=PoolSettings(max_size=1, eager_init=True, max_leases_per_connection=4)
    ),
    "shared, twice": Story(
        beside_another, settings=PoolSettings(max_size=1, eager_init=True, max_leases_per_connection=4)
    ),
    "handed over": Story(in_turn, BORROWERS, settings=PoolSettings(max_size=1, eager_init=True)),
    "handed over, cleaned": Story(
        in_turn, BORROWERS, settings=PoolSettings(max_size=1, eager_init=True), is_cleaned=True
    ),
    "handed over, heard": Story(in_turn, BORROWERS, True, PoolSettings(max_size=1, eager_init=True)),
}


@contextmanager
def planted(place: str, line: str) -> Iterator[None]:
    """Put `line` at the beginning of a function of the package, wherever that function is reached from."""
    kind, name, others = PLACES[place]
    function = getattr(kind, name)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    has_docstring = ast.get_docstring(definition) is not None
    definition.body[has_docstring:has_docstring] = ast.parse(line).body
    code = compile(
        ast.fix_missing_locations(tree),
        function.__code__.co_filename,
        "exec",
        flags=__future__.annotations.compiler_flag,
    )
    made: dict[str, Any] = {}
    exec(code, function.__globals__, made)
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(kind, name, made[name]))
        for owner, other in others:
            again = types.FunctionType(made[name].__code__, function.__globals__)
            new = again if other == "__aexit__" else types.coroutine(again)
            patches.enter_context(mock.patch.object(owner, other, new))
        yield


PLACES: Final[dict[str, tuple[type, str, tuple[tuple[type, str], ...]]]] = {
    "acquire": (ConnectionPool, "acquire", ()),
    "begin": (Hold, "_begin", ((Hold, "begin"), (Acquire, "__aenter__"))),
    "end": (Hold, "_end", ((Acquire, "__aexit__"),)),
    "release": (ConnectionPool, "release", ()),
    "tell at once": (Announcer, "tell_at_once", ()),
    "ask": (Lender, "ask", ()),
    "share": (Lender, "share", ()),
    "unshare": (Lender, "unshare", ()),
    "join": (Waiting, "join_plainly", ()),
    "take": (WaitQueue, "take", ()),
    "pass on": (Lender, "pass_on", ()),
}
"""Functions on the hot path: the class, the name, and where else the class keeps it."""

OBJECT: Final = "_kept = object()"
ALLOCATING: Final = {
    "acquire": "in a block",
    "end": "in a block",
    "release": "explicitly",
    "tell at once": "heard",
    "join": "handed over",
    "pass on": "handed over",
}
"""Where one object more is planted, and the story that has to notice."""


def main() -> None:
    """Print what every story costs, and how much those with an object planted on their way allocate."""
    costs = {name: story.count(with_allocations=True) for name, story in STORIES.items()}
    wasted = {}
    for place, name in ALLOCATING.items():
        with planted(place, OBJECT):
            wasted[place] = STORIES[name].count(with_allocations=True).allocations
    json.dump({"costs": costs, "wasted": wasted}, sys.stdout)


if __name__ == "__main__":
    main()
