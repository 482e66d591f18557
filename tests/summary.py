"""What the suite has to say of itself at the end: any test may add a line."""

LINES: dict[str, str] = {}
"""Lines by topic; a topic that reports again replaces what it said."""


def say(topic: str, line: str) -> None:
    """Print `line` when all tests have run."""
    LINES[topic] = line
