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
from tests.servers import PostgresServer, ServerFailed

SECONDS: Final = 60.0
MEASURED_S: Final = 3.0
"""How long the machine is measured before."""
MOVE_S: Final = 5.0
"""How long after the move to another server a request may be told to come again."""
MOST_UNDER_WAY: Final = 2000
CLIENTS: Final = 64
MOST_TRIES: Final = 10
SENT_TWICE_EVERY: Final = 20
"""One request in so many is sent again though it was answered, as by a sender who did not hear that."""
SIZE: Final = 5
LARGER: Final = 8
TOKEN: Final = "planted-token"
ADMIN: Final = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try of one request.

    Attributes:
        at: when it came, seconds since the beginning.
        took: how long after the request, seconds.
        word: the status, or the name of the client's error.
        again: Retry-After.
        replayed: it says that the request was stored before.
    """

    at: float
    took: float
    word: str
    again: str | None
    replayed: bool


@dataclass
class OpenLoop:
    """Requests sent on schedule, whether or not answers come; each with a key, and again after a 503.

    Attributes:
        url: where to.
        rate: requests a second.
        began: when, on the clock of `time.monotonic`.
        first: the answer to the first try of each request, by its number.
        retried: the answers to further tries after a 503.
        repeated: the answers to requests that were sent again though they were answered 2xx.
        confirmed: the numbers of those that were answered 2xx in the end.
    """

    url: str
    rate: float
    began: float = 0.0
    first: dict[int, Answer] = field(default_factory=dict)
    retried: list[Answer] = field(default_factory=list)
    repeated: list[Answer] = field(default_factory=list)
    confirmed: set[int] = field(default_factory=set)

    @property
    def answers(self) -> list[Answer]:
        """All there were."""
        return [*self.first.values(), *self.retried, *self.repeated]

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
        answer = self.first[number] = await self._try(client, number)
        for _ in range(MOST_TRIES):
            if answer.word != "503":
                break
            await asyncio.sleep(float(answer.again or 0))
            answer = await self._try(client, number)
            self.retried.append(answer)
        if answer.word == "201":
            self.confirmed.add(number)
            if number % SENT_TWICE_EVERY == 0:
                self.repeated.append(await self._try(client, number))

    async def _try(self, client: httpx2.AsyncClient, number: int) -> Answer:
        sent = time.monotonic()
        word, again, replayed = "", None, False
        headers = {"Idempotency-Key": f"request-{number}"}
        try:
            answer = await client.post(self.url, json={"number": number}, headers=headers)
        except httpx2.HTTPError as error:
            word = type(error).__name__
        else:
            word, again = str(answer.status_code), answer.headers.get("retry-after")
            replayed = answer.headers.get("idempotent-replayed") == "true"
        now = time.monotonic()
        return Answer(now - self.began, now - sent, word, again, replayed)

    def slowest(self, share: float) -> float:
        """How long (seconds) this share of all first tries took at most."""
        return sorted(answer.took for answer in self.first.values())[int(share * (len(self.first) - 1))]


class Change:
    """One service, and what is changed about its database."""

    def __init__(self, service: Service, old: PostgresServer, new: PostgresServer) -> None:
        self.service, self.old, self.new = service, old, new
        self.path = service.directory / "connections.json"
        self.most = 0
        self.is_old_dying = False  # whoever asks it now may be cut off

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
        """See again and again how many connections the servers have; at the end there is only one server."""
        while True:
            self.most = max(self.most, await asyncio.to_thread(self._count))
            await asyncio.sleep(0.5)

    def _count(self) -> int:
        found = 0
        for server in (self.old, self.new):
            try:
                found += len(server.connections()) if server.is_running else 0
            except ServerFailed:
                # A frozen one is asked for as long as it is frozen, and may be there for a moment yet.
                if server is self.new or not self.is_old_dying:
                    raise
        return found


def connection_to(server: PostgresServer, password: str, size: int) -> dict[str, Any]:
    """As connections.json spells it."""
    pool = {"max_size": size, "connect_timeout": 2.0}
    return {**Postgres(server, server.database).connection(pool=pool), "password": password}


@pytest.mark.alone
@pytest.mark.timeout(180)
async def test_a_minute_in_which_everything_about_the_database_changes_loses_no_request(
    postgres_server_factory: Callable[..., PostgresServer], workplace: Path
) -> None:
    """Its password, the pool's size, a file that breaks and is mended, its address: a standby takes over."""
    old = await asyncio.to_thread(postgres_server_factory)
    new = await asyncio.to_thread(postgres_server_factory, primary=old)
    await asyncio.to_thread(old.wait_for_standby)
    environ = {
        "CONFIG_RELOAD_ADMIN_TOKEN": TOKEN,
        "CONFIG_FILE_WATCHING_ENABLED": "true",
        "CONFIG_RELOAD_DEBOUNCE_SECONDS": "0.3",
    }
    module = {"create_table": True}
    hooks = [hook("/events", "postgresql", "events", module=module, idempotency={"required": True})]
    with Service(
        workplace, {"events": connection_to(old, old.password, SIZE)}, hooks, environ=environ
    ) as service:
        change = Change(service, old, new)
        carried = await measured(service)
        Postgres(old, old.database).run("TRUNCATE webhook_events, millpond_idempotency")
        traffic = OpenLoop(f"{service.url}/events", carried / 2)
        counting = asyncio.create_task(change.count())
        sending = asyncio.create_task(traffic.run(SECONDS))

        await asyncio.sleep(8)
        old.execute("ALTER ROLE app PASSWORD 'another-secret'")
        change.write(connection_to(old, "another-secret", SIZE))
        await change.taken_over(1)

        await asyncio.sleep(8)
        change.write(connection_to(old, "another-secret", LARGER))
        await change.taken_over(2)

        await asyncio.sleep(6)
        change.path.write_text('{"events": {"type": "postgre')
        await change.taken_over(3, ok=False)
        await asyncio.sleep(4)
        change.write(connection_to(old, "another-secret", LARGER))
        await change.taken_over(4)

        await asyncio.sleep(4)
        moved_at = time.monotonic() - traffic.began
        # Frozen first, so that there are requests in the middle of a statement when it dies.
        change.is_old_dying = True
        await asyncio.to_thread(old.freeze)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(new.promote)
        change.write(connection_to(new, "another-secret", LARGER))
        await change.taken_over(5)

        async def is_alone() -> bool:
            return not (await change.admin("status"))["deprecated"]

        await eventually(is_alone, "the end of the old versions")
        moved_in = time.monotonic() - traffic.began - moved_at
        await sending
        assert not counting.done(), counting.result()
        counting.cancel()
        status = await change.admin("status")
        assert await asyncio.to_thread(service.stop) == 0

    stored = Postgres(new, new.database).numbers()
    ((keys,),) = Postgres(new, new.database).run("SELECT count(*) FROM millpond_idempotency")
    sent, first = len(traffic.first), Counter(answer.word for answer in traffic.first.values())
    refused = [answer for answer in traffic.answers if answer.word == "503"]
    lost, doubled = len(set(range(sent)) - set(stored)), len(stored) - len(set(stored))
    others = {word: number for word, number in first.items() if word != "201"}
    late = max((answer.at - moved_at for answer in refused), default=0.0)
    say = summary.say
    say(
        "a minute of changes, rate",
        f"{carried:.0f} requests/s measured, {traffic.rate:.0f} sent each second, {sent} in all",
    )
    say(
        "a minute of changes, answers",
        f"{100 * first['201'] / sent:.2f} % of them answered 201 at once, others: {others or 'none'}; "
        f"503 {len(refused)} times, the last {late:.1f} s after the move; "
        f"half within {traffic.slowest(0.5):.3f} s, 99 % within {traffic.slowest(0.99):.3f} s, "
        f"all within {traffic.slowest(1.0):.1f} s",
    )
    say(
        "a minute of changes, retries",
        f"tried again after a 503: {len(traffic.retried)} "
        f"({sum(answer.replayed for answer in traffic.retried)} of them were stored already); sent twice: "
        f"{len(traffic.repeated)} ({sum(answer.replayed for answer in traffic.repeated)} known again); "
        f"rows {len(stored)}, keys {keys}, lost {lost}, doubled {doubled}",
    )
    say(
        "a minute of changes, connections",
        f"at most {change.most} connections of {LARGER}; the move took {moved_in:.1f} s; "
        f"versions left: {[each['version'] for each in status['active']]}, "
        f"deprecated: {len(status['deprecated'])}",
    )
    assert first["201"] >= 0.99 * sent
    assert {answer.word for answer in traffic.answers} <= {"201", "503"}
    assert all(moved_at <= answer.at <= moved_at + MOVE_S for answer in refused)
    assert all(answer.again is not None and int(answer.again) > 0 for answer in refused)
    assert refused, "nothing was tried again: the move was too gentle to show anything"
    assert len(traffic.confirmed) == sent
    assert (lost, doubled) == (0, 0)
    assert int(keys) == len(stored) == sent
    assert all(answer.replayed for answer in traffic.repeated if answer.word == "201")
    assert len(traffic.repeated) > sent / SENT_TWICE_EVERY - 1
    assert change.most <= LARGER
    assert status["deprecated"] == []
    assert [each["version"] for each in status["active"]] == [3]
    for secret in (old.password, "another-secret"):
        assert secret not in service.stdout + service.stderr


async def measured(service: Service) -> float:
    """How many requests a second the service answers on this machine now."""
    traffic = Traffic(f"{service.url}/events")
    began = time.monotonic()
    traffic.until = lambda: time.monotonic() > began + MEASURED_S
    await traffic.flow(clients=16, requests=1_000_000)
    assert not traffic.failed
    return traffic.sent / (time.monotonic() - began)
