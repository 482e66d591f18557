"""What docs/gateway.md shows, as it stands there."""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"


def files() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The example's connections and its hooks."""
    connections, hooks = (json.loads(each) for each in _blocks("json"))
    return connections, hooks["webhooks"]


def key_table(kind: str, name: str) -> str:
    """The statements that make the table of keys, under another name."""
    at = ("postgresql", "mysql", "sqlite").index(kind)
    return _blocks("sql")[at].replace("millpond_idempotency", name)


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
