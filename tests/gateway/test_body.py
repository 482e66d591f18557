"""Reading a body: bounded, strict, and never more of it than needed."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
from starlette.datastructures import Headers

from millpond.gateway import body
from millpond.gateway.refusals import Disconnected, Refused


class Sender:
    """Plays a client: gives out messages one by one and counts how many were asked for."""

    def __init__(self, messages: Iterable[dict[str, Any]]) -> None:
        self.messages = iter(messages)
        self.asked = 0

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        return next(self.messages)


def pieces(*contents: bytes) -> list[dict[str, Any]]:
    last = len(contents) - 1
    return [
        {"type": "http.request", "body": content, "more_body": at < last}
        for at, content in enumerate(contents)
    ]


async def test_a_body_in_pieces_comes_out_whole() -> None:
    sender = Sender(pieces(b'{"a"', b"", b": 1}"))

    assert await body.read(sender.receive, most=100, timeout=5) == b'{"a": 1}'


async def test_a_body_of_just_the_limit_is_taken() -> None:
    sender = Sender(pieces(b"12345", b"67890"))

    assert await body.read(sender.receive, most=10, timeout=5) == b"1234567890"


async def test_reading_stops_as_soon_as_the_limit_is_passed() -> None:
    """The rest is not even asked for."""
    sender = Sender(pieces(*[b"12345"] * 1000))

    with pytest.raises(Refused) as caught:
        await body.read(sender.receive, most=10, timeout=5)

    assert caught.value.status == 413
    assert sender.asked == 3


async def test_a_sender_that_leaves_is_noticed() -> None:
    sender = Sender([*pieces(b"123", b"")[:1], {"type": "http.disconnect"}])

    with pytest.raises(Disconnected):
        await body.read(sender.receive, most=10, timeout=5)


async def test_a_sender_that_dawdles_is_told_so() -> None:
    """408, and not to use the connection again, for the rest may still come."""
    import asyncio

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Refused) as caught:
        await body.read(never, most=10, timeout=0.01)

    assert caught.value.status == 408
    assert caught.value.headers == {"Connection": "close"}


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/cloudevents+json",
        "text/x+json;a=b",
    ],
)
def test_json_by_any_name_is_taken(media_type: str) -> None:
    headers = Headers({"content-type": media_type, "content-length": "5"})

    body.check_type(headers)
    body.check_length(headers, most=5)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/jsonx"}, 415),
        ({"content-type": "+json"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "content-length": "6"}, 413),
        ({"content-type": "application/json", "content-length": "9" * 5000}, 413),
    ],
)
def test_a_head_can_be_enough_to_refuse(headers: dict[str, str], status: int) -> None:
    check = body.check_type if status == 415 else partial(body.check_length, most=5)

    with pytest.raises(Refused) as caught:
        check(Headers(headers))

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("types", "media_type", "is_taken"),
    [
        (["text/plain"], "Text/Plain; charset=utf-8", True),
        (["text/plain"], "application/json", False),
        (["application/*+json"], "application/cloudevents+json", True),
        (["application/*+json"], "text/cloudevents+json", False),
        (["application/json", "text/*"], "text/x", True),
        (["text/*"], "text/x/y", False),
        (["text/*"], "", False),
        (["*/*"], "", True),
        (["a.b/c"], "axb/c", False),
    ],
)
def test_a_hook_says_what_json_may_be_called(types: list[str], media_type: str, *, is_taken: bool) -> None:
    """Some senders call it text/plain."""
    headers = Headers({"content-type": media_type})
    try:
        body.check_type(headers, types)
    except Refused as refused:
        assert (refused.status, is_taken) == (415, False)  # noqa: PT017 - one of two right outcomes
    else:
        assert is_taken


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nonsense",
        b"{'a': 1}",
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b"1" * 5000,
        b"[" * 100_000,
        b'"\xff\xfe"',
        '{"a": 1}'.encode("utf-16"),
        b"{} {}",
    ],
)
def test_what_is_not_json_is_refused(content: bytes) -> None:
    """Also what Python's parser would take, and what nobody could read back."""
    with pytest.raises(Refused) as caught:
        body.parse(content)

    assert caught.value.status == 400
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_the_text_stays_as_it_was_sent() -> None:
    """Numbers keep their digits; only a byte order mark goes."""
    assert body.parse(b'\xef\xbb\xbf{"price": 1.10}') == ('{"price": 1.10}', {"price": 1.1})


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_body_is_as_deep_as_everybody_can_read_it_and_no_deeper(opening: str, closing: str) -> None:
    """The limit is ours, the same whatever Python this is, and far below that of any database."""
    levels = body.DEEPEST
    text = opening * levels + "1" + closing * levels

    assert body.parse(text.encode())[0] == text
    with pytest.raises(Refused, match="nested more than 500 levels"):
        body.parse((opening * (levels + 1) + "1" + closing * (levels + 1)).encode())


def test_brackets_in_strings_are_not_levels() -> None:
    """Nor are those of many lists that lie side by side."""
    text = '["' + "[" * 2000 + '\\"[", ' + ", ".join(["[]"] * 1000) + "]"

    assert len(body.parse(text.encode())[1]) == 1001


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"[" * 3000 + b"]" * 3000,
        b'[{"a":' * 300 + b"[]" + b"}]" * 300,
        b"[" + b"[[]],{}," * 1000 + b"[" * 500 + b"]" * 501,
    ],
    ids=["endless", "deep", "mixed", "wide and deep"],
)
def test_what_is_too_deep_is_told_so_however_it_is_made(content: bytes) -> None:
    """Also where the parser itself gives up."""
    with pytest.raises(Refused, match="nested more than 500 levels") as caught:
        body.parse(content)

    assert caught.value.status == 400


def test_quotes_without_an_end_cost_no_more_than_other_text() -> None:
    """A megabyte that a search for strings would go through again from each of its quotes."""
    with pytest.raises(Refused, match="not a JSON document"):
        body.parse(b'[""' + b",[]" * 501 + b',"' + b'\\"' * 500_000)
