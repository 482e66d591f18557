"""What goes into a column."""

import json

import pytest

from millpond.gateway import body
from millpond.gateway.pointer import Json, Pointer, Received, Template, as_json, encoded, source

EXACT = "12345678901234567.89"
"""A number of which a float keeps 16 digits."""

# The document and the answers of RFC 6901, section 5.
RFC = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_examples_of_the_standard_hold(pointer: str, found: object) -> None:
    """Section 5 of RFC 6901."""
    assert Pointer(pointer).find(RFC) == found


@pytest.mark.parametrize(
    "pointer", ["/nope", "/foo/2", "/foo/-", "/foo/01", "/foo/x", "/foo/0/deeper", "/~01"]
)
def test_a_pointer_to_nothing_finds_none(pointer: str) -> None:
    """Absent, out of range, not an index, or below a plain value: all the same."""
    assert Pointer(pointer).find(RFC) is None


@pytest.mark.parametrize("document", [None, 5, "text", True, []])
def test_a_body_that_holds_nothing_is_no_error(document: object) -> None:
    """A body need not be an object."""
    assert Pointer("/a").find(document) is None


def test_a_huge_index_is_no_error() -> None:
    """Python refuses to convert endless digits; a pointer does not try."""
    assert Pointer("/" + "9" * 5000).find([1]) is None


@pytest.mark.parametrize("words", ["", "body", "$nope", "/a~2", "/a~", "a/b"])
def test_what_is_no_source_is_refused(words: str) -> None:
    """A column's value is a pointer or a special word, and nothing else."""
    with pytest.raises(ValueError, match="JSON pointer"):
        source(words)


def test_special_words_mean_the_request() -> None:
    """The body as it was sent, the path, the time."""
    received = Received(
        path="/hook", received_at="2026-11-21T00:00:00+00:00", text='{"a": 1.10}', body={"a": 1.1}
    )

    assert source("$body")(received) == Json('{"a": 1.10}')
    assert source("$path")(received) == "/hook"
    assert source("$received_at")(received) == "2026-11-21T00:00:00+00:00"
    assert source("/a")(received) == 1.1


@pytest.mark.parametrize(
    "text",
    [
        EXACT, f"-{EXACT}", "0.1234567890123456789", "0.000000000000000000012345", "1.1", "-0.0", "1e2",
        f'[{EXACT}, {{"a": {EXACT}}}, 1.5, null]', f'{{"{EXACT}": "{EXACT}", "b": [1, {EXACT}]}}',
        "1.000000000000000000",
    ],
)  # fmt: skip
def test_a_number_keeps_every_digit_that_was_sent(text: str) -> None:
    """Alone, and inside of objects and lists: what a database has room for must not be lost on the way."""
    _, document = body.parse(text.encode())

    written = as_json(document)

    assert json.loads(written, parse_float=str) == json.loads(text.replace("1e2", "100.0"), parse_float=str)
    assert encoded(document) == written.encode()


def test_a_number_in_a_name_keeps_its_digits() -> None:
    """Two of them must not meet under one name."""
    document = {"a": 1.5}
    received = Received(path="/hook", received_at="", text="", body=document)
    assert Template("n:{/a}").filled(received) == "n:1.5"

    _, exact = body.parse(f'{{"a": {EXACT}}}'.encode())

    assert Template("n:{/a}").filled(Received("/hook", "", "", exact)) == f"n:{EXACT}"


def test_what_is_no_json_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError):
        as_json({"a": {1}})
