"""Whoever guesses the admin token is slowed down; whoever has it is let in."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI

from millpond.web import admin_router, guessing, lifespan
from tests.web.conftest import Written

SHORT = "planted-token"
LONG = "planted-token-of-more-than-32-characters"
WRONG = {"Authorization": "Bearer wrong"}

Opened = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def opened(connections_file: Written, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A client of an admin API with this token, from this address; answers are held for 0.2 s."""
    monkeypatch.setattr(guessing, "_HELD_S", 0.2)
    path = connections_file()

    @asynccontextmanager
    async def client(token: str = SHORT, address: str = "192.0.2.1") -> AsyncIterator[httpx2.AsyncClient]:
        app = FastAPI(lifespan=lifespan(path))
        app.include_router(admin_router(environ={"CONFIG_RELOAD_ADMIN_TOKEN": token}))
        transport = httpx2.ASGITransport(app, client=(address, 1))
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://x") as made,
        ):
            yield made

    return client


async def ask(client: httpx2.AsyncClient, token: str = "wrong") -> httpx2.Response:
    """Ask with this token."""
    return await client.get("/admin/status", headers={"Authorization": f"Bearer {token}"})


async def test_the_right_token_is_let_in_at_once_however_many_wrong_ones_came(opened: Opened) -> None:
    """Many may be behind one address, and one of them has an old token."""
    async with opened() as client:
        assert [(await ask(client)).status_code for _ in range(12)] == [401] * 10 + [429] * 2
        began = time.monotonic()
        assert (await ask(client, SHORT)).status_code == 200
        assert time.monotonic() - began < 0.2


async def test_wrong_tokens_beyond_ten_within_a_minute_are_answered_late(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 with Retry-After; after a minute it is 401 again, at once."""
    async with opened() as client:
        for _ in range(10):
            await ask(client)
        began = time.monotonic()
        refused = await ask(client)
        assert time.monotonic() - began >= 0.2
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        monkeypatch.setattr("millpond.web.guessing.time.monotonic", lambda: began + 120)
        assert (await ask(client)).status_code == 401


async def test_nobody_tries_more_than_ten_short_tokens_within_the_time_that_one_is_held(
    opened: Opened,
) -> None:
    """However many come at once: what is beyond is not compared, or its answer would tell."""
    async with opened() as client:
        for _ in range(10):
            await ask(client)
        guesses = [asyncio.create_task(ask(client)) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert (await ask(client, SHORT)).status_code == 429
        assert Counter([(await each).status_code for each in guesses]) == {429: 50}
        assert (await ask(client, SHORT)).status_code == 200


async def test_a_token_that_nobody_can_guess_is_let_in_during_an_attack(opened: Opened) -> None:
    """It needs no protection by which others could keep its holder out."""
    async with opened(LONG) as client:
        for _ in range(10):
            await ask(client)
        guesses = [asyncio.create_task(ask(client)) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert (await ask(client, LONG)).status_code == 200
        await asyncio.gather(*guesses)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False), ("2001:db8::1", "2001:db8::2:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False), ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("testclient", "testclient", True), ("", "testclient", False),
    ],
)  # fmt: skip
def test_an_address_is_what_one_person_can_have(one: str, other: str, is_same: bool) -> None:
    """Of IPv6 that is a network of 64 bits."""
    known = guessing.Guessing()

    assert (known.of(one) is known.of(other)) is is_same


def test_addresses_are_forgotten_before_there_are_too_many() -> None:
    """The one that has been quiet for longest first."""
    known = guessing.Guessing()
    first, second = known.of("first"), known.of("second")
    for number in range(998):
        known.of(str(number))
    assert known.of("first") is first
    known.of("one more")

    assert known.of("first") is first
    assert known.of("second") is not second
