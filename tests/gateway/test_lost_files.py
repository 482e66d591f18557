"""A SQLite file that is deleted or replaced under a service: nothing is confirmed that nobody can read."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.gateway.backends import Sqlite
from tests.gateway.service import Service, hook
from tests.gateway.traffic import client_of, eventually


def is_at_rest(client: httpx2.Client) -> bool:
    """Every connection is idle: no reset is under way that would see the loss first."""
    pool = client.get("/health").json()["pools"]["events"]
    return bool(pool["total"] == pool["idle"] > 0)


@pytest.mark.parametrize("isolation_level", ["deferred", "autocommit"])
async def test_what_is_confirmed_is_in_the_file_that_is_there(workplace: Path, isolation_level: str) -> None:
    """The request that met the loss is answered 503; the next ones go to the new file."""
    store = Sqlite(workplace / "events.db")
    options: dict[str, Any] = {"isolation_level": isolation_level, "pool_max_size": 2}
    hooks = [hook("/events", "sqlite", "events", module={"create_table": True})]
    with (
        Service(workplace, {"events": store.connection(**options)}, hooks) as service,
        client_of(service.url) as client,
    ):
        assert client.post("/events", json={"number": 0}).status_code == 201
        await eventually(lambda: is_at_rest(client), "the reset after the first request")
        store.remove()

        answers = [client.post("/events", json={"number": number}).status_code for number in range(1, 9)]

        confirmed = [number for number, status in enumerate(answers, start=1) if status == 201]
        assert set(answers) == {201, 503}
        assert answers[-1] == 201
        assert store.numbers() == confirmed
        assert client.get("/health/db").status_code == 200
        assert service.stop() == 0
