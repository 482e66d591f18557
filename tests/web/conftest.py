"""A registry on a real SQLite file, and applications around it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.registry.conftest import install as install

Written = Callable[..., Path]


@pytest.fixture
def connections_file(tmp_path: Path) -> Written:
    """Writes a connections.json with one SQLite connection, `events`, and more if asked."""

    def write(*, pool: dict[str, Any] | None = None, **others: Any) -> Path:
        events = {"type": "sqlite", "database": str(tmp_path / "events.db"), "pool": pool or {}}
        path = tmp_path / "connections.json"
        path.write_text(json.dumps({"events": events, **others}))
        return path

    return write
