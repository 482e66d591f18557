"""Clients of a gateway: many at once, each request with a number that its row can be known by."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

import httpx2


@dataclass
class Traffic:
    """What was sent to a hook and what came of it."""

    url: str
    confirmed: set[int] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    refusals: list[httpx2.Response] = field(default_factory=list)
    """Answers 503, each with its headers."""
    key: str = field(default_factory=lambda: uuid4().hex)
    """How the idempotency key of each request begins."""

    def __post_init__(self) -> None:
        self._numbers = count()
        self.until: Callable[[], bool] = lambda: False

    @property
    def sent(self) -> int:
        return self.answers.total()

    @property
    def failed(self) -> int:
        """Requests that ended in anything but a 2xx."""
        return self.sent - len(self.confirmed)

    async def send_one(self, client: httpx2.AsyncClient) -> str:
        """One request; its status, or the name of its error."""
        number = next(self._numbers)
        started = time.monotonic()
        try:
            headers = {"Idempotency-Key": f"{self.key}-{number}"}
            answer = await client.post(self.url, json={"number": number}, headers=headers)
        except httpx2.HTTPError as error:
            word = type(error).__name__
        else:
            word = str(answer.status_code)
            if answer.is_success:
                self.confirmed.add(number)
            elif answer.status_code == 503:
                self.refusals.append(answer)
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.answers[word] += 1
        return word

    async def flow(self, *, clients: int, requests: int, keep_alive: bool = True) -> None:
        """Send `requests` in all from `clients` at once, or until `until` says so."""
        left = iter(range(requests))
        async with open_client(clients, keep_alive=keep_alive) as client, asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._send_some(client, left))

    async def _send_some(self, client: httpx2.AsyncClient, left: Iterator[int]) -> None:
        for _ in left:
            if self.until():
                return
            await self.send_one(client)


def open_client(clients: int = 1, *, keep_alive: bool = True) -> httpx2.AsyncClient:
    """A client that keeps to itself: no proxies, no environment."""
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients if keep_alive else 0)
    return httpx2.AsyncClient(limits=limits, timeout=30.0, trust_env=False)


@contextmanager
def client_of(url: str) -> Iterator[httpx2.Client]:
    """A client for one request after the other."""
    with httpx2.Client(base_url=url, timeout=30.0, trust_env=False) as client:
        yield client


async def eventually(condition: Callable[[], Any | Awaitable[Any]], what: str, timeout: float = 15.0) -> None:
    """Ask again and again until it is so.

    Raises:
        AssertionError: it is not so after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        await asyncio.sleep(0.02)
