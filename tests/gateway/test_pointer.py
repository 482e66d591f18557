"""What goes into a column."""

import pytest

from millpond.gateway.pointer import Json, Pointer, Received, source

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
