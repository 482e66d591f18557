"""A minute of traffic through which everything about the database changes."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests import summary
from tests.gateway.backends import Postgres
from tests.gateway.service import Service, hook
from tests.gateway.traffic import Traffic, eventually, open_client
from tests.servers import PostgresServer

SECONDS: Final = 60.0
MEASURED_S: Final = 3.0
"""How long the machine is measured before."""
MOVE_S: Final = 5.0
"""How long after the move to another server a request may be told to come again."""
MOST_UNDER_WAY: Final = 2000
CLIENTS: Final = 64
SIZE: Final = 8
TOKEN: Final = "planted-token"
ADMIN: Final = {"Authorization": f"Bearer {TOKEN}"}
TABLE: Final = "CREATE TABLE webhook_events (id bigserial, body jsonb NOT NULL)"


@dataclass
class OpenLoop:
    """Requests sent on schedule, whether or not answers come.

    Attributes:
        url: where to.
        rate: requests a second.
        began: when, on the clock of `time.monotonic`.
        answers: of each request: when it was sent, seconds since the beginning; what came; Retry-After.
        confirmed: the numbers of those that were answered 2xx.
    """

    url: str
    rate: float
    began: float = 0.0
    answers: list[tuple[float, str, str | None]] = field(default_factory=list)
    confirmed: set[int] = field(default_factory=set)

    async def run(self, seconds: float) -> None:
        """Send for so long, and wait for the last answer."""
        self.began = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        async with open_client(CLIENTS) as client:
            for number in range(int(seconds * self.rate)):
                late = self.began + number / self.rate - time.monotonic()
                if late > 0:
                    await asyncio.sleep(late)
                assert len(under_way) < MOST_UNDER_WAY, "the service does not keep up at half its rate"
                task = asyncio.create_task(self._send(client, number))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)

    async def _send(self, client: httpx2.AsyncClient, number: int) -> None:
        at, again = time.monotonic() - self.began, None
        headers = {"Idempotency-Key": f"request-{number}"}
        try:
            answer = await client.post(self.url, json={"number": number}, headers=headers)
        except httpx2.HTTPError as error:
            word = type(error).__name__
        else:
            word, again = str(answer.status_code), answer.headers.get("retry-after")
            if answer.is_success:
                self.confirmed.add(number)
        self.answers.append((at, word, again))

    def between(self, since: float, until: float) -> Counter[str]:
        """What came of the requests that were sent then."""
        return Counter(word for at, word, _ in self.answers if since <= at < until)


class Change:
    """One service, and what is changed about its database."""

    def __init__(self, service: Service, old: PostgresServer, new: PostgresServer) -> None:
        self.service, self.old, self.new = service, old, new
        self.path = service.directory / "connections.json"
        self.most = 0
        self.done: dict[str, float] = {}

    def write(self, connection: dict[str, Any]) -> None:
        """Put a new file in the place of the old one."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"events": connection}))
        new.replace(self.path)

    async def admin(self, path: str) -> Any:
        """Ask the admin API."""
        async with open_client() as client:
            return (await client.get(f"{self.service.url}/admin/{path}", headers=ADMIN)).json()

    async def taken_over(self, reloads: int, *, ok: bool = True) -> None:
        """Return when the reload of this number has ended, as it should."""

        async def is_so() -> bool:
            status = await self.admin("config-status")
            return bool(status["reloads"] >= reloads and not status["in_progress"])

        await eventually(is_so, f"reload {reloads}")
        assert (await self.admin("config-status"))["last"]["ok"] is ok

    async def count(self) -> None:
        """See again and again how many connections the servers have."""
        while True:
            counts = [
                len(await asyncio.to_thread(server.connections))
                for server in (self.old, self.new)
                if server.is_running
            ]
            self.most = max(self.most, sum(counts))
            await asyncio.sleep(0.5)


def connection_to(server: PostgresServer, password: str, size: int) -> dict[str, Any]:
    """As connections.json spells it."""
    pool = {"max_size": size, "acquire_timeout": 5.0, "connect_timeout": 2.0}
    return {**Postgres(server, server.database).connection(pool=pool), "password": password}


@pytest.mark.alone
@pytest.mark.timeout(180)
async def test_a_minute_in_which_everything_about_the_database_changes_loses_no_request(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """Its password, the pool's size, a file that breaks and is mended, its address."""
    old, new = await asyncio.gather(*(asyncio.to_thread(postgres_server_factory) for _ in range(2)))
    for server in (old, new):
        Postgres(server, server.database).run(TABLE)
    environ = {
        "CONFIG_RELOAD_ADMIN_TOKEN": TOKEN,
        "CONFIG_FILE_WATCHING_ENABLED": "true",
        "CONFIG_RELOAD_DEBOUNCE_SECONDS": "0.3",
    }
    hooks = [hook("/events", "postgresql", "events")]
    first = connection_to(old, old.password, SIZE)
    with Service(workplace, {"events": first}, hooks, environ=environ) as service:
        change = Change(service, old, new)
        rate = await carried(service) / 2
        Postgres(old, old.database).run("TRUNCATE webhook_events")
        traffic = OpenLoop(f"{service.url}/events", rate)
        counting = asyncio.create_task(change.count())
        sending = asyncio.create_task(traffic.run(SECONDS))

        await asyncio.sleep(8)
        old.execute("ALTER ROLE app PASSWORD 'another-secret'")
        change.write(connection_to(old, "another-secret", SIZE))
        await change.taken_over(1)

        await asyncio.sleep(8)
        change.write(connection_to(old, "another-secret", SIZE - 3))
        await change.taken_over(2)

        await asyncio.sleep(6)
        change.path.write_text('{"events": {"type": "postgre')
        await change.taken_over(3, ok=False)
        await asyncio.sleep(4)
        change.write(connection_to(old, "another-secret", SIZE - 3))
        await change.taken_over(4)

        await asyncio.sleep(4)
        moved_at = time.monotonic() - traffic.began
        change.write(connection_to(new, new.password, SIZE - 3))
        await change.taken_over(5)

        async def is_alone() -> bool:
            return not (await change.admin("status"))["deprecated"]

        await eventually(is_alone, "the end of the old versions")
        moved_in = time.monotonic() - traffic.began - moved_at
        stored_in_old = Postgres(old, old.database).numbers()
        await asyncio.to_thread(old.kill)
        await sending
        counting.cancel()
        status = await change.admin("status")
        assert await asyncio.to_thread(service.stop) == 0

    stored = stored_in_old + Postgres(new, new.database).numbers()
    answers = Counter(word for _, word, _ in traffic.answers)
    others = {word: number for word, number in answers.items() if word != "201"}
    summary.say(
        "a minute of changes",
        f"{rate:.0f} requests/s (half of what was measured), {answers.total()} sent, "
        f"{100 * answers['201'] / answers.total():.2f} % answered 201, others: {others or 'none'}; "
        f"rows lost: {len(traffic.confirmed - set(stored))}, doubled: {len(stored) - len(set(stored))}; "
        f"at most {change.most} connections of {SIZE}; the move took {moved_in:.1f} s",
    )
    assert answers["201"] >= 0.99 * answers.total()
    assert answers.keys() <= {"201", "503"}
    assert traffic.between(0, moved_at).keys() == {"201"}
    assert traffic.between(moved_at + MOVE_S, SECONDS).keys() == {"201"}
    assert all(again is not None for _, word, again in traffic.answers if word == "503")
    assert traffic.confirmed <= set(stored)
    assert len(stored) == len(set(stored))
    assert len(set(stored) - traffic.confirmed) <= answers["503"]
    assert change.most <= SIZE
    assert status["deprecated"] == []
    assert [each["version"] for each in status["active"]] == [3]
    for secret in (old.password, "another-secret", new.password):
        assert secret not in service.stdout + service.stderr


async def carried(service: Service) -> float:
    """How many requests a second the service answers on this machine now."""
    traffic = Traffic(f"{service.url}/events")
    began = time.monotonic()
    traffic.until = lambda: time.monotonic() > began + MEASURED_S
    await traffic.flow(clients=16, requests=1_000_000)
    return traffic.sent / (time.monotonic() - began)
