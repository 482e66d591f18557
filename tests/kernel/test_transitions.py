"""Every legal move of every state machine of the kernel is made, and no other."""

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from millpond._core.slot import Slot, SlotState
from millpond.testing import ScriptedBackend, ScriptedDriver, run
from millpond.testing.histories import OPERATIONS
from millpond.testing.histories.playing import play_all
from tests import summary
from tests.kernel.transitions import MACHINES, Taken, legal_moves, recording

MOST = 400
"""Histories that may be needed."""
ENDED_WITH_THE_LOOP = {
    "pool open -> closed",
    "pool paused -> closed",
    "pool draining -> closed",
}
"""What no history can do: it would have to outlive its event loop."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The pools of a history complain a lot."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def outlive_the_loop(begin: Callable[[ConnectionPool[Any]], Awaitable[None] | None]) -> None:
    """Close a pool when the loop it was used on is gone."""
    pool: ConnectionPool[Any] = ConnectionPool(
        ScriptedDriver(ScriptedBackend()), settings=PoolSettings(min_size=0)
    )

    async def use() -> None:
        async with pool.acquire():
            pass
        if (drained := begin(pool)) is not None:
            await drained

    async def close() -> None:
        await pool.close()

    run(use)
    run(close)


def histories_until_all_is_taken(taken: Taken) -> int:
    """Play one history after the other, until only what no history can do is missing."""
    for seed in range(MOST):
        played = play_all([seed], OPERATIONS, math.inf)
        assert played.failed is None, played.why
        if set(taken.missing()) <= ENDED_WITH_THE_LOOP:
            return seed + 1
    return MOST


def test_every_legal_transition_is_taken_and_no_other() -> None:
    """By the histories; what they do never or rarely is added: ends without a loop, and of what is unused."""

    async def close_unused() -> None:
        await ConnectionPool(ScriptedDriver(ScriptedBackend())).close()

    with recording() as taken:
        run(close_unused)
        count = histories_until_all_is_taken(taken)
        outlive_the_loop(lambda pool: None)
        outlive_the_loop(lambda pool: pool.pause())
        outlive_the_loop(lambda pool: pool.drain())
    moves = {machine: len(legal_moves(machine)) for machine in MACHINES}
    words = ", ".join(f"{count} of a {machine}" for machine, count in moves.items())
    summary.say("state machines", f"all {sum(moves.values())} legal transitions taken ({words})")

    assert taken.missing() == []
    assert taken.illegal() == []
    assert count < MOST


def test_the_recorder_sees_each_move_of_each_machine() -> None:
    """What it did not see would count as missing, what is not legal as illegal."""
    with recording() as taken:
        slot = Slot(1, 0)
        slot.move(SlotState.IDLE)
        slot.state = SlotState.BUSY  # the short way, without the table
        slot.state = SlotState.OPENING

    assert taken.moves["slot"] == {
        (SlotState.OPENING, SlotState.IDLE): 1,
        (SlotState.IDLE, SlotState.BUSY): 1,
        (SlotState.BUSY, SlotState.OPENING): 1,
    }
    assert taken.illegal() == ["slot busy -> opening"]
    assert "slot opening -> idle" not in taken.missing()
