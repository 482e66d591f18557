"""Reading configuration files: three formats, one meaning, and faults with their place."""

import os
import socket
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from millpond.errors import ConfigError
from millpond.registry.sources import DEEPEST, LARGEST_DOCUMENT, MOST_VALUES, name_fault, read_document
from millpond.registry.watching import contents

Write = Callable[..., str]


def faults(path: str) -> tuple[str, ...]:
    """What is said of a file that cannot be read, with the name of the file taken off."""
    with pytest.raises(ConfigError) as caught:
        read_document(path)
    assert all(problem.startswith(f"{path}: ") for problem in caught.value.problems)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return tuple(problem.removeprefix(f"{path}: ") for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"orders": {"port": 5432, "hosts": ["x", "y"], "on": true, "note": "n"}}'),
        ("a.JSON", '\ufeff{"orders": {"port": 5432, "hosts": ["x", "y"], "on": true, "note": "n"}}'),
        ("a.toml", '[orders]\nport = 5432\nhosts = ["x", "y"]\non = true\nnote = "n"\n'),
        ("a.yaml", "orders:\n  port: 5432\n  hosts: [x, y]\n  on: true\n  note: n\n".replace(" on", ' "on"')),
        ("a.yml", '{"orders": {"port": 5432, "hosts": ["x", "y"], "on": true, "note": "n"}}'),
    ],
)
def test_every_format_says_the_same(write: Write, name: str, text: str) -> None:
    """JSON, TOML and YAML are three ways to write one document."""
    document = read_document(write(text, name))

    assert document.values == {"orders": {"port": 5432, "hosts": ["x", "y"], "on": True, "note": "n"}}
    assert (document.label, document.path) == (name, Path(name))


def test_the_key_for_editors_is_ignored_at_the_top_only(write: Write) -> None:
    """`$schema` tells an editor what the file may say; below the top it is a key like any other."""
    document = read_document(write({"$schema": "millpond.json", "orders": {"$schema": 1}}))

    assert document.values == {"orders": {"$schema": 1}}


def test_the_document_does_not_show_its_values(write: Write) -> None:
    """A log line that prints it gives no secret away."""
    assert "hunter2" not in repr(read_document(write({"orders": {"password": "hunter2"}})))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"orders": {"password": "hunter2"}', "line 1, column 35: expecting ',' delimiter"),
        ('{\n  "orders": {\n    "password" "hunter2"\n}}', "line 3, column 16: expecting ':' delimiter"),
        ('{"a": "hunter2\n"}', "line 1, column 15: invalid control character at"),
        ('{"a": "hunter2\\q"}', "line 1, column 15: invalid \\escape"),
        ("", "line 1, column 1: expecting value"),
        ("hunter2", "line 1, column 1: expecting value"),
        ("{} hunter2", "line 1, column 4: extra data"),
        ('{"a": NaN}', "holds NaN, which is not JSON"),
        ('{"a": -Infinity}', "holds -Infinity, which is not JSON"),
        ("[" * 100_000, f"is nested deeper than {DEEPEST} levels"),
        ('{"a": ' + "9" * 5000 + "}", "holds a number that is too long"),
        ('["hunter2"]', "the top must be an object"),
        ('"hunter2"', "the top must be an object"),
        ("null", "the top must be an object"),
        ('{"a": {"b": 1, "b": 2, "c": 3}}', "a.b: stands there twice"),
        ('{"a": [{"b": 1, "b": 1}]}', "a[0].b: stands there twice"),
        ('{"a": 1, "a": 1}', "a: stands there twice"),
        ('{"a": "x\\ud800"}', "a: holds half a character (an unpaired surrogate)"),
        (b'{\n"a": "hunter2\xff"}', "line 2: is not UTF-8 text"),
    ],
    ids=lambda value: str(value)[:30].encode("ascii", "backslashreplace").decode(),
)
def test_bad_json_says_where(write: Write, text: str | bytes, fault: str) -> None:
    """Line and column where there are any, else the keys that lead there; nothing of the content."""
    said = faults(write(text))

    assert said == (fault,)
    assert "hunter" not in fault


def test_every_doubled_key_is_found(write: Write) -> None:
    """A file with two mistakes does not have to be read three times."""
    said = faults(write('{"a": {"x": 1, "x": 2, "y": 1, "y": 2}, "b": 1, "b": {"z": 1}}'))

    assert said == ("b: stands there twice", "a.x: stands there twice", "a.y: stands there twice")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('a = "hunter2', "line 1: is not valid TOML"),
        ("[a]\nb = 1\nb = 2\n", "line 3, column 6: is not valid TOML"),
        ("[a]\n[a]\n", "line 2, column 3: is not valid TOML"),
        ("a = hunter2", "line 1, column 5: is not valid TOML"),
        ("a = " + "9" * 5000, "holds a number that is too long, or a date that does not exist"),
        ("a = 2020-01-01", "a: must be text, a number, true, false, null, a list or an object"),
        ("[a]\n\nb = [1,\n", "line 3: is not valid TOML"),
    ],
    ids=lambda text: text[:30],
)
def test_bad_toml_says_where(write: Write, text: str, fault: str) -> None:
    """The parser's own words may quote the file, so only the place is kept."""
    assert faults(write(text, "a.toml")) == (fault,)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1", "line 1, column 6: is not valid YAML"),
        ("a: b: hunter2", "line 1, column 5: is not valid YAML"),
        ("a: *hunter2", "line 1, column 4: is not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "line 1, column 4: is not valid YAML"),
        ("a: \x01", "is not valid YAML"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "line 4, column 3: the key b stands there twice"),
        ("a: {b: 1, b: 1}", "line 1, column 11: the key b stands there twice"),
        ("a: 1\na: 2\n", "line 2, column 1: the key a stands there twice"),
        ("a: {1: x}", "a: every key must be text; put numbers, dates and true or false in quotes"),
        ("on: x", "every key must be text; put numbers, dates and true or false in quotes"),
        ("a: 2020-01-01", "a: must be text, a number, true, false, null, a list or an object"),
        ("", "the top must be an object"),
        ("- a", "the top must be an object"),
        ("a: &a [*a]", f"is nested deeper than {DEEPEST} levels"),
        ("[" * 2000, f"is nested deeper than {DEEPEST} levels"),
        ("a: 1\n---\nb: 1\n", "line 2, column 1: is not valid YAML"),
    ],
    ids=lambda text: text[:30].encode("ascii", "backslashreplace").decode(),
)
def test_bad_yaml_says_where(write: Write, text: str, fault: str) -> None:
    """The parser's own words may quote the file, so only the place is kept."""
    assert faults(write(text, "a.yaml")) == (fault,)


def test_yaml_may_merge_and_override(write: Write) -> None:
    """What `<<` brings may be said again, that is what it is for."""
    document = read_document(write("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n", "a.yaml"))

    assert document.values == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


def test_a_few_lines_of_yaml_cannot_fill_the_memory(write: Write) -> None:
    """Aliases of aliases of aliases: ten to the power of nine values in ten lines."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in pairwise("abcdefghi")]

    assert faults(write("\n".join(lines), "a.yaml")) == (f"holds more than {MOST_VALUES} values",)


def test_a_document_is_limited_in_depth_and_size(write: Write) -> None:
    """A file that is no configuration is recognized before it costs anything."""
    deep: object = 1
    for _ in range(DEEPEST + 1):
        deep = {"a": deep}

    assert faults(write(deep)) == (f"is nested deeper than {DEEPEST} levels",)
    assert faults(write(" " * (LARGEST_DOCUMENT + 1))) == (f"is larger than {LARGEST_DOCUMENT} bytes",)


def test_a_file_that_is_not_there_is_named(write: Write) -> None:
    """The system's own words, without its path and number."""
    write({}, "here.json")
    os.mkdir("folder.json")

    assert faults("gone.json") == ("cannot be read: No such file or directory",)
    assert faults("folder.json") == ("is not an ordinary file",)


@pytest.mark.timeout(10)
def test_what_is_no_ordinary_file_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to would stop the whole service, and some devices never end."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.json")
    Path("device.json").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.json")

        found = [faults(name) for name in ("pipe.json", "device.json", "socket.json")]

    assert found == [("is not an ordinary file",)] * 3
    assert contents(frozenset({Path("pipe.json"), Path("device.json")})) == {
        Path("pipe.json"): None,
        Path("device.json"): None,
    }


def test_a_format_is_told_by_the_name_only(write: Write) -> None:
    """Guessing would one day guess wrong."""
    said = faults(write({}, "connections.conf"))

    assert said == ("the format is told by the end of the name; known: .json, .toml, .yaml, .yml",)


@pytest.mark.parametrize("name", ["orders", "o", "A-b_c.9", "x" * 100, "-", "."])
def test_a_name_may_hold_letters_digits_and_three_signs(name: str) -> None:
    """Names go into URLs, metrics and log lines."""
    assert name_fault(name) is None


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "a connection's name must not be empty"),
        ("a b", "a connection's name may hold only letters, digits, '_', '.' and '-'"),
        ("a\n", "a connection's name may hold only letters, digits, '_', '.' and '-'"),
        ("Mühle", "a connection's name may hold only letters, digits, '_', '.' and '-'"),
        ("x" * 101, "a connection's name must not be longer than 100 characters"),
        (5, "a connection's name must be a string"),
    ],
)
def test_other_names_are_refused(name: object, fault: str) -> None:
    """Each fault has its own words."""
    assert name_fault(name) == fault


def test_recursion_in_a_parser_leaves_the_interpreter_usable(write: Write) -> None:
    """A hostile file costs one refusal and nothing else."""
    before = sys.getrecursionlimit()

    assert faults(write("[" * 5000, "a.yaml")) == (f"is nested deeper than {DEEPEST} levels",)
    assert sys.getrecursionlimit() == before
