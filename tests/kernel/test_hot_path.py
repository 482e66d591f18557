"""What a lease does is counted, not timed: a busy machine changes nothing here.

A reason to raise one of these bounds is a reason to run `make bench`.
"""

import asyncio
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any, Final

import pytest

from millpond import ConnectionPool, PoolSettings
from tests.kernel.ways import (
    ALLOCATING,
    PLACES,
    STORIES,
    Borrow,
    Cost,
    explicitly,
    in_a_block,
    planted,
)

ROOT: Final = Path(__file__).parents[2]

EXACTLY: Final[dict[tuple[int, ...], dict[str, Cost]]] = {
    (3, 11): {
        # acquire, enter, is_closed, after_lease, exit; and what acquire() returns, what runs it, its
        # __aexit__, and the number of the thread.
        "in a block": Cost(208, 5, 4),
        # No __aexit__, but the thread's number once more, and the address by which the lease is found.
        "explicitly": Cost(272, 8, 5),
        "by identity": Cost(235, 7, 4),
        # Two events, and what stands in them.
        "heard": Cost(489, 15, 9),
        "heard, by identity": Cost(516, 17, 9),
        "counted": Cost(367, 13, 5),
        "looked for": Cost(694, 18, 11),
        "shared": Cost(325, 10, 5),
        "shared, twice": Cost(656, 24, 11),
        # Of twenty turns, in nineteen of which somebody waited.
        "handed over": Cost(10919, 310, 203),
        "handed over, cleaned": Cost(24484, 933, 0),
        "handed over, heard": Cost(40745, 1707, 402),
    },
    (3, 13): {
        "in a block": Cost(188, 5, 3),
        "explicitly": Cost(249, 8, 3),
        "by identity": Cost(210, 7, 3),
        "heard": Cost(456, 15, 8),
        "heard, by identity": Cost(478, 17, 8),
        "counted": Cost(339, 13, 4),
        "looked for": Cost(672, 18, 12),
        "shared": Cost(291, 10, 5),
        "shared, twice": Cost(583, 24, 11),
        "handed over": Cost(10400, 291, 163),
        "handed over, cleaned": Cost(22597, 834, 0),
        "handed over, heard": Cost(39627, 1669, 381),
    },
}
"""What each story costs. An interpreter compiles to instructions of its own, the same in all its patches."""


def bound(name: str) -> Cost:
    """The most that a story may cost; where nobody has counted, a quarter more than the dearest."""
    known = EXACTLY.get(sys.version_info[:2])
    if known is not None:
        return known[name]
    return Cost(*(most * 5 // 4 for most in map(max, *(each[name] for each in EXACTLY.values()))))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What `tests.kernel.ways` prints."""
    command = [sys.executable, "-m", "tests.kernel.ways"]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=150)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", STORIES)
def test_it_costs_what_it_does(name: str, found: dict[str, Any]) -> None:
    """What is added to the way of every lease is added to every request of every user.

    And a bound with room under it lets the next slow-down through: it is lowered with every gain.
    """
    cost, most = Cost(*found["costs"][name]), bound(name)

    assert cost.instructions <= most.instructions
    assert cost.calls <= most.calls
    assert cost.allocations <= most.allocations
    if sys.version_info[:2] in EXACTLY:
        assert cost == most, "it has become cheaper: lower the bound"


@pytest.mark.parametrize("place", ALLOCATING)
def test_every_object_is_noticed(place: str, found: dict[str, Any]) -> None:
    """Those that live on a little, wherever they are made."""
    assert found["wasted"][place] > bound(ALLOCATING[place]).allocations


WHOSE: Final = {
    "acquire": ("in a block", "explicitly", "shared", "handed over"),
    "begin": ("in a block", "explicitly", "by identity", "counted", "handed over"),
    "end": ("in a block", "explicitly", "by identity", "counted", "handed over"),
    "release": ("explicitly",),
    "tell at once": ("heard",),
    "ask": ("handed over",),
    "share": ("shared", "shared, twice"),
    "unshare": ("shared", "shared, twice"),
    "join": ("handed over",),
    "take": ("handed over",),
    "pass on": ("handed over",),
}
"""The stories that go through each."""

SLOWER: Final = {
    "a call": "id(0)",
    "an object": "_kept = object()",
    "a look-up": "_found = __builtins__",
    "a closure": "_later = lambda: 0",
    "a primitive": "__import__('asyncio').Event()",
}


@pytest.mark.parametrize("line", SLOWER.values(), ids=SLOWER)
@pytest.mark.parametrize("place", PLACES)
def test_every_slow_down_is_noticed(place: str, line: str) -> None:
    """Whatever is planted in a function of the hot path makes the stories that go through it too dear."""
    for name in WHOSE[place]:
        with planted(place, line):
            cost = STORIES[name].count()
        assert cost.instructions > bound(name).instructions, name


@pytest.mark.parametrize("lease", [in_a_block, explicitly])
def test_an_uncontended_lease_takes_next_to_no_memory(lease: Borrow) -> None:
    """At its peak: the object that acquire() returns, what runs it, and two instants."""

    async def main() -> int:
        settings = PoolSettings(max_size=2, min_size=2, eager_init=True)
        async with ConnectionPool.from_factory(object, settings=settings) as pool:
            for _ in range(3):
                await lease(pool)
            least = sys.maxsize
            for _ in range(5):  # whatever else allocates meanwhile only adds
                tracemalloc.start()
                await lease(pool)
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                await lease(pool)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                least = min(least, peak - before)
        return least

    assert 0 < asyncio.run(main()) <= 900
