"""Send a few thousand requests to the quickstart's webhook; compare what was confirmed with what is stored.

    python examples/quickstart/load.py --count 5000

Every request carries the name of this run and a number. Afterwards the rows of
this run are counted in the database, through a pool of the same
connections.json that the server uses. Missing rows were confirmed with a 2xx
and are not there: that must never happen, and the exit status is then 1. It is
1 too when the rows cannot be counted, and 2 when the call or the file is wrong.
Surplus rows are there and nobody was told so: each belongs to a request that
ended in an error, for instance because the database went away between the
commit and the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import httpx2

from millpond import ConfigError, ConnectionPoolRegistry, MissingExtra, PoolError
from millpond.registry import UnknownConnection

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE / "connections.json"


class Run:
    """One run: what was sent, what was answered, how long it took."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.name = uuid.uuid4().hex
        self.answers: Counter[str] = Counter()
        self.confirmed: set[int] = set()
        self.seconds: list[float] = []
        self.numbers = iter(range(options.count))

    async def send_all(self) -> float:
        """Send every request and return how many seconds that took."""
        limits = httpx2.Limits(max_connections=self.options.concurrency)
        self.started = time.perf_counter()
        # trust_env: a proxy for the outside world has no business with this traffic.
        client = httpx2.AsyncClient(limits=limits, timeout=self.options.timeout, trust_env=False)
        async with client, asyncio.TaskGroup() as tasks:
            for _ in range(self.options.concurrency):
                tasks.create_task(self._send_some(client))
        return time.perf_counter() - self.started

    async def _send_some(self, client: httpx2.AsyncClient) -> None:
        """Take the next number and send it, until there are none."""
        for number in self.numbers:
            if self.options.rate:
                due = self.started + number / self.options.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            began = time.perf_counter()
            try:
                answer = await client.post(self.options.url, json={"run": self.name, "number": number})
            except httpx2.HTTPError as error:
                self.answers[type(error).__name__] += 1
                continue
            finally:
                self.seconds.append(time.perf_counter() - began)
            self.answers[str(answer.status_code)] += 1
            if answer.is_success:
                self.confirmed.add(number)

    async def stored(self, registry: ConnectionPoolRegistry) -> Counter[int]:
        """How many rows there are of each number of this run; none when there is no table yet."""
        name, table = self.options.connection, self.options.table
        try:
            async with registry.acquire(name) as conn:
                if registry.kind(name) == "postgresql":
                    if await conn.fetchval("SELECT to_regclass($1)", table) is None:
                        return Counter()
                    query = f"SELECT (body->>'number')::int FROM {table} WHERE body->>'run' = $1"  # noqa: S608
                    rows = await conn.fetch(query, self.name)
                else:
                    tables = "SELECT 1 FROM sqlite_master WHERE name = ?"
                    if not await conn.execute_fetchall(tables, (table,)):
                        return Counter()
                    query = (
                        f"SELECT json_extract(body, '$.number') FROM {table} "  # noqa: S608
                        "WHERE json_extract(body, '$.run') = ?"
                    )
                    rows = await conn.execute_fetchall(query, (self.name,))
        finally:
            await registry.close()
        return Counter(row[0] for row in rows)


def options() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/webhook/quickstart")
    parser.add_argument("--count", type=int, default=5000, help="requests to send")
    parser.add_argument("--concurrency", type=int, default=16, help="requests under way at once")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second at most; 0: no limit")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for an answer")
    parser.add_argument("--connections", type=Path, default=QUICKSTART, metavar="FILE")
    parser.add_argument("--connection", default="quickstart", metavar="NAME")
    parser.add_argument("--table", default="webhook_events")
    chosen = parser.parse_args()
    for name in ("count", "concurrency"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if chosen.connections == QUICKSTART:
        os.chdir(HERE.parent.parent)  # its database lies in the clone, wherever this is called from
    return chosen


async def main() -> int:
    """Send, count, compare; return the exit status."""
    run = Run(options())
    registry = ConnectionPoolRegistry.from_file(run.options.connections)
    registry.kind(run.options.connection)
    took = await run.send_all()
    run.seconds.sort()
    sent = len(run.seconds)
    middle, slow = (run.seconds[int(share * (sent - 1))] * 1000 for share in (0.5, 0.99))
    print(f"sent       {sent} in {took:.1f} s: {sent / took:.0f} a second")
    print(f"latency    half within {middle:.1f} ms, 99 % within {slow:.1f} ms")
    print("answers    " + ", ".join(f"{answer}: {count}" for answer, count in sorted(run.answers.items())))
    print(f"confirmed  {len(run.confirmed)}")
    stored = await run.stored(registry)
    missing = run.confirmed - stored.keys()
    surplus = stored.total() - len(run.confirmed & stored.keys())
    print(f"stored     {stored.total()}")
    print(f"missing    {len(missing)}")
    print(f"surplus    {surplus}")
    return 1 if missing else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except PoolError as error:
        print(f"load.py: {error}", file=sys.stderr)
        # As with the command millpond: 2, something has to be changed; 1, the database is not there.
        sys.exit(2 if isinstance(error, (ConfigError, MissingExtra, UnknownConnection)) else 1)
