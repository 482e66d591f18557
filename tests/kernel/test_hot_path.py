"""What a lease that nobody waits for does is counted, not timed: a busy machine changes nothing here."""

import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import millpond
from millpond import ConnectionPool, PoolSettings

PACKAGE = str(Path(millpond.__file__).parent)
INSTRUCTIONS = 275  # 258 on 3.11, which counts; a reason to raise this is a reason to run `make bench`
CALLS = 5  # acquire, enter, is_closed, after_lease, exit


async def counted() -> tuple[int, int]:
    """Bytecode instructions and Python calls of the package in one uncontended lease."""
    pool = ConnectionPool.from_factory(object, settings=PoolSettings(max_size=2, eager_init=True, min_size=2))
    instructions = calls = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal instructions, calls
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            calls += 1
        elif event == "opcode":
            instructions += 1
        return trace

    async with pool:
        for _ in range(3):
            async with pool.acquire():
                pass
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            async with pool.acquire():
                pass
        finally:
            sys.settrace(before)
    return instructions, calls


def test_an_uncontended_lease_stays_as_short_as_it_is() -> None:
    """What is added to the way of every lease is added to every request of every user."""
    instructions, calls = asyncio.run(counted())

    assert 0 < calls <= CALLS
    # Python 3.13 tells a tracer of calls, and of no instruction in a frame that it enters here.
    assert instructions <= INSTRUCTIONS
    assert instructions > 0 or sys.version_info >= (3, 12)
