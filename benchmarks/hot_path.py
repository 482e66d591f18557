"""Where a lease spends its time: `python -m benchmarks.hot_path [lease|handover]`.

First what cProfile says of many of them, then how many bytecode instructions one of them runs, line by line
(CPython 3.11 counts them all; later versions do not tell a tracer of every frame).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import millpond
from benchmarks import micro
from benchmarks.subjects import millpond_pool

PACKAGE: Final = Path(millpond.__file__).parent
TIMES: Final = 20_000


async def lease(times: int) -> None:
    """Leases that nobody else wants."""
    async with millpond_pool() as pool:
        for _ in range(times):
            async with pool.acquire():
                pass


async def handover(times: int) -> None:
    """Turns of a hundred tasks on ten connections."""
    async with millpond_pool() as pool:
        await micro.handed_over(pool.acquire, 100, max(1, times // 100))()


STORIES: Final[dict[str, Callable[[int], Awaitable[None]]]] = {"lease": lease, "handover": handover}


def lines_of(story: Callable[[int], Awaitable[None]], few: int, many: int) -> dict[tuple[str, int], float]:
    """Instructions of the package by file and line, for one of what the story does.

    Two runs of different length are compared, so that making the pool does not count.
    """

    def counted(times: int) -> Counter[tuple[str, int]]:
        found: Counter[tuple[str, int]] = Counter()

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            file = frame.f_code.co_filename
            if not file.startswith(str(PACKAGE)):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                found[file, frame.f_lineno or frame.f_code.co_firstlineno] += 1  # some have no line
            return trace

        async def run() -> None:
            sys.settrace(trace)
            try:
                await story(times)
            finally:
                sys.settrace(None)

        asyncio.run(run())
        return found

    short, long = counted(few), counted(many)
    return {line: (long[line] - short[line]) / (many - few) for line in long}


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__)
    parser.add_argument("story", nargs="?", choices=STORIES, default="lease")
    story = STORIES[parser.parse_args().story]
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, story(TIMES))
    pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(15)
    found = lines_of(story, 200, 1200)
    print(f"{sum(found.values()):.0f} instructions of millpond")
    for (file, line), count in sorted(found.items()):
        if count >= 0.5:
            text = Path(file).read_text(encoding="utf-8").splitlines()[line - 1].strip()
            print(f"{count:6.1f}  {Path(file).name}:{line}  {text}")


if __name__ == "__main__":
    main()
