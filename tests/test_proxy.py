"""The proxy of the tests spoils a network just as it says, and mends it again."""

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest

from tests.servers.proxy import Proxy, Way

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]

PATIENCE = 10.0
SILENCE = 0.05  # that nothing comes can only be seen by waiting


class Echo:
    """A server that says in capitals what it hears, and knows who is connected and how they left."""

    def __init__(self) -> None:
        self.heard = b""
        self.open = 0
        self.resets = 0
        self.changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.changed.set()
        try:
            while piece := await reader.read(100):
                self.heard += piece
                writer.write(piece.upper())
        except ConnectionResetError:
            self.resets += 1
        finally:
            writer.close()
            self.open -= 1
            self.changed.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.open != count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@pytest.fixture
async def ends(proxy: Proxy) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    yield reader, writer
    writer.close()


async def ask(ends: Ends, question: str) -> str:
    reader, writer = ends
    writer.write(question.encode())
    return (await asyncio.wait_for(reader.readexactly(len(question)), PATIENCE)).decode()


async def is_silent(ends: Ends) -> bool:
    """Whether nothing comes, not even the end."""
    task = asyncio.ensure_future(ends[0].read(1))
    done, _ = await asyncio.wait([task], timeout=SILENCE)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return not done


async def test_what_one_says_the_other_hears(proxy: Proxy, ends: Ends) -> None:
    """Also more than fits into one piece."""
    big = "x" * 300_000

    assert await ask(ends, "a") == "A"
    assert await ask(ends, big) == big.upper()
    assert proxy.accepted == len(proxy.links) == 1


async def test_the_end_of_one_side_is_the_end_of_the_other(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """A client that hangs up is gone at the server."""
    await ask(ends, "a")
    ends[1].close()

    await echo.has(0)
    assert not proxy.links


async def test_a_stalled_answer_comes_when_the_network_heals(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """Nothing is lost: the network sends it again."""
    await ask(ends, "a")
    proxy.stall(Way.TO_CLIENT)
    ends[1].write(b"b")

    assert await is_silent(ends)
    assert echo.heard == b"ab"
    proxy.heal()
    assert await asyncio.wait_for(ends[0].readexactly(1), PATIENCE) == b"B"


async def test_a_stalled_question_is_not_heard_meanwhile(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """And the end of the one who asked it comes after it."""
    await ask(ends, "a")
    proxy.stall(Way.TO_SERVER)
    ends[1].write(b"b")
    assert await is_silent(ends)
    ends[1].close()

    assert echo.heard == b"a"
    assert echo.open == 1
    proxy.heal()
    await echo.has(0)
    assert echo.heard == b"ab"


async def test_who_connects_through_a_stalled_network_waits(proxy: Proxy) -> None:
    """New connections are no better off than old ones."""
    proxy.stall()
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"a")

    assert await is_silent((reader, writer))
    proxy.heal()
    assert await asyncio.wait_for(reader.readexactly(1), PATIENCE) == b"A"
    writer.close()


async def test_a_link_that_lost_bytes_is_silent_for_ever(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """Neither side hears even that the other has gone; healing cuts it."""
    await ask(ends, "a")
    proxy.swallow()
    ends[1].write(b"b")
    assert await is_silent(ends)
    ends[1].close()
    other = await asyncio.open_connection(proxy.host, proxy.port)

    assert await ask(other, "c") == "C"
    assert echo.open == 2
    assert echo.heard == b"ac"
    proxy.heal()
    await echo.has(1)
    assert echo.resets == 1
    other[1].close()


async def test_latency_comes_on_top(proxy: Proxy, ends: Ends) -> None:
    """Each way once."""
    proxy.latency = 0.03
    loop = asyncio.get_running_loop()
    before = loop.time()
    await ask(ends, "a")

    assert loop.time() - before >= 0.06


async def test_a_cut_link_is_reset_on_both_sides(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """No goodbye: an error."""
    await ask(ends, "a")
    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(ends[0].read(1), PATIENCE)
    await echo.has(0)
    assert echo.resets == 1


async def test_an_answer_is_cut_in_the_middle(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """So many bytes more, then the end."""
    await ask(ends, "a")
    proxy.cut(after=3)
    ends[1].write(b"hello")

    assert await asyncio.wait_for(ends[0].readexactly(3), PATIENCE) == b"HEL"
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(ends[0].read(1), PATIENCE)
    await echo.has(0)


async def test_one_link_can_be_closed_and_the_others_stay(proxy: Proxy, ends: Ends, echo: Echo) -> None:
    """Politely: both sides read the end."""
    await ask(ends, "a")
    other = await asyncio.open_connection(proxy.host, proxy.port)
    await ask(other, "b")
    min(proxy.links, key=lambda link: link.number).close()

    assert await asyncio.wait_for(ends[0].read(), PATIENCE) == b""
    await echo.has(1)
    assert echo.resets == 0
    assert await ask(other, "c") == "C"
    other[1].close()


async def test_who_is_refused_may_come_back(proxy: Proxy, ends: Ends) -> None:
    """On the same port; who is in stays in."""
    await ask(ends, "a")
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError) as caught:
        await asyncio.open_connection(proxy.host, proxy.port)
    assert caught.value.errno == errno.ECONNREFUSED
    assert await ask(ends, "b") == "B"
    proxy.heal()
    other = await asyncio.open_connection(proxy.host, proxy.port)
    assert await ask(other, "c") == "C"
    other[1].close()


async def test_who_is_ignored_gets_in_and_hears_nothing(proxy: Proxy, echo: Echo) -> None:
    """Until the network heals; then they are reset."""
    proxy.ignore()
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"a")

    assert await is_silent((reader, writer))
    assert echo.open == 0
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), PATIENCE)
    writer.close()


async def test_a_server_that_is_away_resets_who_connects(echo: Echo) -> None:
    """The proxy itself lets them in, and cannot know before."""
    async with Proxy(1) as proxy:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)

        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), PATIENCE)
        writer.close()


async def test_an_address_can_move_to_another_server(proxy: Proxy, ends: Ends) -> None:
    """New links lead there; the old ones stay where they are."""
    await ask(ends, "a")
    elsewhere = Echo()
    async with await asyncio.start_server(elsewhere.serve, "127.0.0.1", 0) as server:
        proxy.server_port = server.sockets[0].getsockname()[1]
        other = await asyncio.open_connection(proxy.host, proxy.port)

        assert await ask(other, "b") == "B"
        assert elsewhere.heard == b"b"
        assert await ask(ends, "c") == "C"
        other[1].close()
        await elsewhere.has(0)
