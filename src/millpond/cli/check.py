"""`millpond check`: are the files right, and is everything there that they name?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from millpond.cli import NOT_THERE, OK, TO_BE_CHANGED, words
from millpond.cli.checking import Checked, check_all
from millpond.cli.files import load

if TYPE_CHECKING:
    from pathlib import Path


async def check_files(connections: Path, webhooks: Path | None, timeout: float) -> int:
    """Validate the files, try each connection once, print a line for each; return the exit status.

    Raises:
        ConfigError: a file cannot be used.
        MissingExtra: a client library is not installed.
    """
    loaded = load(connections, webhooks)
    try:
        results = await check_all(loaded.registry, timeout=timeout)
    finally:
        await loaded.registry.close(timeout)
    table = [_HEAD, *(_row(each) for each in results)]
    words.say(*(words.aligned(table, right=frozenset({3})) if results else ["no connections"]))
    words.complain(*(f"{connections}: {each.fault}" for each in results if each.fault is not None))
    return status_of(results)


def status_of(results: list[Checked]) -> int:
    """The exit status that fits the worst of them."""
    if any(each.is_permanent for each in results):
        return TO_BE_CHANGED
    return NOT_THERE if any(each.fault is not None for each in results) else OK


_HEAD: Final = ("name", "kind", "state", "connect", "server")


def _row(each: Checked) -> tuple[str, str, str, str, str]:
    took = f"{each.seconds * 1000:.1f} ms" if each.fault is None else ""
    return each.name, each.kind, each.word, took, each.version
