"""What the suite has to say of itself at the end: any test may add a line."""

from collections import Counter

LINES: dict[str, str] = {}
"""Lines by topic; a topic that reports again replaces what it said."""


def say(topic: str, line: str) -> None:
    """Print `line` when all tests have run."""
    LINES[topic] = line


def storm(
    backend: str, counted: Counter[str], *, opened: int, what: str, leaked: int, seconds: float
) -> None:
    """Print what a storm of cancellations did to a backend; leaves nothing out, zeros neither.

    Args:
        backend: its name.
        counted: `requests`, `cancelled` in the middle of one, cancelled `elsewhere`, `right` and `wrong`
            answers, and requests `excused`, which the library failed by itself.
        opened: how many connections the pool has opened meanwhile.
        what: what it calls them.
        leaked: how many the server lists that are not the pool's, or the other way round.
        seconds: how long it took.
    """
    say(
        f"storm of cancellations, {backend}",
        f"{counted['requests']} requests, {counted['cancelled']} cancelled in the middle of one and "
        f"{counted['elsewhere']} elsewhere, {counted['right']} right answers, {counted['wrong']} wrong, "
        f"{opened} {what} opened, {leaked} leaked; {seconds:.1f} s"
        + (f"; {counted['excused']} failed by the library itself" if counted["excused"] else ""),
    )
