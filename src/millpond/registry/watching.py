"""Noticing that files have changed: by what is in them, whatever way it came there.

Not the files are watched but their directories: an editor that puts a new file
in the place of the old one, and Kubernetes, which swaps a symbolic link, are
not seen otherwise (measured with watchfiles 1.3). An event only says that it
is time to look; what counts is the content, also for being at rest: somebody may
write a log beside the configuration all the time. On file systems that send no
events a slow look of our own finds the change.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from millpond.errors import MissingExtra, describe
from millpond.registry.files import read_ordinary

logger = logging.getLogger("millpond.registry")

POLL_S: Final = 30.0
"""How often (seconds) the files are looked at though nothing was heard of them."""
FIRST_RETRY_S: Final = 2.0
LAST_RETRY_S: Final = 60.0
"""Pauses (seconds) before what a backend has prevented is tried again: the first, doubled up to the last."""
_STEP_MS: Final = 100
_MOST_BYTES: Final = 8 << 20  # more than any file may have that is read


class Watcher:
    """This calls a function when the content of files has changed, and has been at rest for a while.

    Args:
        files: says which files, each time they are looked at.
        changed: awaited after a change; while it runs, nothing is missed. False: what the files say is
            right and could not be taken over yet; it is called again, after longer and longer pauses.
        debounce: how long nothing may have happened before files are read, seconds.
        poll: seconds between two looks when nothing is heard.

    Raises:
        MissingExtra: watchfiles is not installed.
    """

    def __init__(
        self,
        files: Callable[[], frozenset[Path]],
        changed: Callable[[], Awaitable[bool]],
        *,
        debounce: float,
        poll: float = POLL_S,
    ) -> None:
        try:
            import watchfiles
        except ModuleNotFoundError as missing:
            raise MissingExtra("config", needed_for="watching files", module="watchfiles") from missing
        self._awatch = watchfiles.awatch
        self._files = files
        self._changed = changed
        self._debounce = debounce
        self._poll = poll
        self._heard = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._seen: Mapping[Path, bytes | None] = {}

    def start(self, known: Mapping[Path, bytes | None] | None = None) -> None:
        """Begin to watch; `known` is what was in the files when they were read (left out: what is there)."""
        self._seen = contents(self._files()) if known is None else known
        self._tasks = [
            asyncio.create_task(self._listen(), name="millpond: watch files"),
            asyncio.create_task(self._look(), name="millpond: look at files"),
        ]

    async def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _listen(self) -> None:
        """Note that something happened in one of the directories."""
        while not self._stop.is_set():
            places = directories(self._files())
            until = asyncio.Event()
            is_first = True
            try:
                async for changes in self._awatch(
                    *places,
                    watch_filter=None,
                    recursive=False,
                    debounce=_STEP_MS,
                    step=_STEP_MS,
                    rust_timeout=500,
                    yield_on_timeout=True,
                    stop_event=until,
                ):
                    # What happened before the system was asked to tell is not told: one look of our own.
                    if changes or is_first:
                        is_first = False
                        self._heard.set()
                    if directories(self._files()) != places:
                        break  # a configuration that names other files has been taken over
            except (OSError, RuntimeError) as error:
                # A directory went away, or the system has no watches left: our own looks go on.
                logger.warning("files cannot be watched, looking every %g s: %s", self._poll, describe(error))
                await asyncio.sleep(self._poll)
            finally:
                until.set()

    async def _look(self) -> None:
        """After something was heard, and every now and then: has anything changed?"""
        loop = asyncio.get_running_loop()
        pause, again_at = FIRST_RETRY_S, math.inf
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), min(self._poll, max(0.0, again_at - loop.time())))
            self._heard.clear()
            now = await self._at_rest()
            if now != self._seen:
                pause = FIRST_RETRY_S
            elif loop.time() < again_at:
                continue
            again_at = math.inf
            try:
                if not await self._changed():
                    again_at, pause = loop.time() + pause, min(2 * pause, LAST_RETRY_S)
            except Exception as error:
                logger.error("a reload failed: %s", describe(error))
            # Files that are named for the first time were read just now.
            known = {**contents(self._files()), **now}
            self._seen = {path: known[path] for path in self._files()}

    async def _at_rest(self) -> Mapping[Path, bytes | None]:
        """What is in the files once that has not changed for `debounce` seconds; at once if it is known."""
        now = contents(self._files())
        while now != self._seen:
            before = now
            await asyncio.sleep(self._debounce)
            now = contents(self._files())
            if now == before:
                break
        return now


def contents(files: frozenset[Path]) -> dict[Path, bytes | None]:
    """A digest of what is in each file; None where it cannot be read."""
    return {path: _digest(path) for path in files}


def directories(files: frozenset[Path]) -> tuple[str, ...]:
    """Where a change of these files shows: beside them, and beside what links lead to; those that exist."""
    found = {place for path in files for place in (_resolved(path.parent), _resolved(path).parent)}
    return tuple(sorted(str(place) for place in found if _is_directory(place)))


def _resolved(path: Path) -> Path:
    """What links lead to; the path itself where they lead nowhere: a link to itself, one that is not ours."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(read_ordinary(path, _MOST_BYTES)).digest()
    except (OSError, ValueError):
        return None
