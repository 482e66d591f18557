"""Values from the environment and from files: what is replaced, what is left alone, what is refused."""

import json
import os
from pathlib import Path

import pytest

from millpond.registry.substitution import LARGEST_FILE, Whole, spelled, substitute

ENVIRON = {"USER": "miller", "EMPTY": "", "PORT": "5433", "TRICKY": "${USER} $$ {$USER}", "A1_b": "yes"}


def replaced(text: str) -> object:
    """What becomes of one string."""
    result = substitute({"key": text}, ENVIRON)
    assert result.problems == ()
    return result.values["key"]


def fault(text: str) -> str:
    """What is said of one string that cannot be replaced."""
    result = substitute({"orders": {"password": text}}, ENVIRON)
    assert result.values == {"orders": {"password": text}}
    (problem,) = result.problems
    return problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${USER}", "miller"),
        ("${env:USER}", "miller"),
        ("{$USER}", "miller"),
        ("${A1_b}", "yes"),
        ("${EMPTY}", ""),
        ("{$EMPTY}", ""),
        ("${MISSING:-somebody}", "somebody"),
        ("${env:MISSING:-somebody}", "somebody"),
        ("{$MISSING:somebody}", "somebody"),
        ("${MISSING:-}", ""),
        ("{$MISSING:}", ""),
        ("${USER:-somebody}", "miller"),
        ("{$USER:somebody}", "miller"),
        ("${EMPTY:-somebody}", "somebody"),
        ("{$EMPTY:somebody}", "somebody"),
        ("${MISSING:-a:-b c/d\n}", "a:-b c/d\n"),
        ("{$MISSING:http://host:80/}", "http://host:80/"),
        ("${MISSING:-five$$}", "five$"),
    ],
)
def test_a_reference_is_replaced_by_what_it_names(text: str, expected: str) -> None:
    """Every spelling, with and without a default, is understood."""
    assert replaced(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://${USER}@host:${PORT}/", "http://miller@host:5433/"),
        ("${USER}${PORT}", "miller5433"),
        ("{$USER}-{$PORT:1}", "miller-5433"),
        ("{${USER}}", "{miller}"),
        ("a ${MISSING:-b} c", "a b c"),
        ("$${USER}", "${USER}"),
        ("{$$USER}", "{$USER}"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("$$${USER}", "$miller"),
        ("100 $", "100 $"),
        ("$USER", "$USER"),
        ("pa$word", "pa$word"),
        ("{$.order.id}", "{$.order.id}"),
        ("{$1}", "{$1}"),
        ("{}", "{}"),
        ("", ""),
        ("}", "}"),
    ],
)
def test_references_stand_inside_strings_and_dollars_can_be_written(text: str, expected: str) -> None:
    """What is no reference stays as it was written."""
    assert replaced(text) == expected


def test_what_a_reference_brings_is_not_looked_at_again() -> None:
    """A password that looks like a reference is a password."""
    assert replaced("${TRICKY}") == ENVIRON["TRICKY"]
    assert replaced("a ${TRICKY} b") == f"a {ENVIRON['TRICKY']} b"


def test_keys_are_never_replaced() -> None:
    """A key that looks like a reference stays one, and will be refused as an unknown key."""
    result = substitute({"${USER}": {"{$USER}": 1, "$$": 2}}, ENVIRON)

    assert result.values == {"${USER}": {"{$USER}": 1, "$$": 2}}


def test_only_strings_are_replaced_at_any_depth() -> None:
    """Numbers, truths and nulls pass through; lists and objects are walked."""
    document = {"a": [1, None, True, 2.5, {"b": ["${USER}", "x"]}]}

    result = substitute(document, ENVIRON)

    assert result.values == {"a": [1, None, True, 2.5, {"b": ["miller", "x"]}]}
    assert document["a"][4] == {"b": ["${USER}", "x"]}


def test_quotes_in_a_value_cannot_change_the_document() -> None:
    """Substitution works on parsed strings, so that nothing can be injected."""
    document = json.loads('{"password": "${P}", "host": "a"}')

    result = substitute(document, {"P": '", "host": "evil'})

    assert result.values == {"password": '", "host": "evil', "host": "a"}


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("${PORT}", True),
        ("{$PORT}", True),
        ("${MISSING:-5432}", True),
        ("5${PORT}", False),
        ("${PORT}${EMPTY}", False),
        ("5433", False),
        ("$$", False),
    ],
)
def test_only_a_reference_that_is_the_whole_value_may_become_a_number(text: str, is_whole: bool) -> None:
    """A mark on the string tells; the string itself is the same."""
    assert isinstance(replaced(text), Whole) is is_whole


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${SECRET_1}", "orders.password: the variable SECRET_1 is not set and has no default"),
        ("x{$SECRET_1}x", "orders.password: the variable SECRET_1 is not set and has no default"),
        ("${env:SECRET_1}", "orders.password: the variable SECRET_1 is not set and has no default"),
        ("${USER", "orders.password: a ${...} is not closed; write $$ for a dollar sign"),
        ("{$USER", "orders.password: a {$...} is not closed; write $$ for a dollar sign"),
        (
            "${hunter two}",
            "orders.password: a ${...} is neither ${VAR} nor ${VAR:-default} nor ${file:/path}; "
            "write $$ for a dollar sign",
        ),
        (
            "${}",
            "orders.password: a ${...} is neither ${VAR} nor ${VAR:-default} nor ${file:/path}; "
            "write $$ for a dollar sign",
        ),
        (
            "${USER:hunter2}",
            "orders.password: a ${...} is neither ${VAR} nor ${VAR:-default} nor ${file:/path}; "
            "write $$ for a dollar sign",
        ),
        (
            "{$USER-hunter2}",
            "orders.password: a {$...} is neither {$VAR} nor {$VAR:default}; write $$ for a dollar sign",
        ),
        ("${env:}", "orders.password: a ${...} names no variable"),
        ("${vault:hunter2}", "orders.password: a ${...} has a prefix that is not known; known: env, file"),
        (
            "${SECRET_1:-${USER}}",
            "orders.password: the default of SECRET_1 holds another reference, which is not possible",
        ),
        ("${file:hunter2}", "orders.password: ${file:...} needs an absolute path"),
        ("${file:}", "orders.password: ${file:...} needs an absolute path"),
    ],
)
def test_a_reference_that_cannot_be_replaced_says_where_and_why(text: str, problem: str) -> None:
    """The line names the key path and the variable, and repeats nothing else of the value."""
    said = fault(text)

    assert said == problem
    assert "hunter" not in said


def test_every_fault_of_a_document_is_found() -> None:
    """One bad reference does not hide the next; the rest of the document is replaced."""
    result = substitute({"a": ["${X}", {"b": "${Y}"}], "c": "${USER}"}, ENVIRON)

    assert result.problems == (
        "a[0]: the variable X is not set and has no default",
        "a[1].b: the variable Y is not set and has no default",
    )
    assert result.unresolved == {("a", 0), ("a", 1, "b")}
    assert result.values["c"] == "miller"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"grain", "grain"),
        (b"grain\n", "grain"),
        (b"grain\r\n", "grain"),
        (b"grain\n\n", "grain\n"),
        (b"grain\r", "grain\r"),
        (b"\n", ""),
        (b"", ""),
        (b" grain \n", " grain "),
        ("Mühle\n".encode(), "Mühle"),
        (b"${USER} $$", "${USER} $$"),
    ],
)
def test_a_file_is_read_without_its_trailing_newline(tmp_path: Path, content: bytes, expected: str) -> None:
    """One newline, as editors and `echo` write it; everything else belongs to the secret."""
    path = tmp_path / "password"
    path.write_bytes(content)

    result = substitute({"password": f"${{file:{path}}}"}, ENVIRON)

    assert result.values == {"password": expected}
    assert result.files == {path}


def test_a_file_may_stand_inside_a_string(tmp_path: Path) -> None:
    """A URL can take its password from a mounted secret."""
    path = tmp_path / "password"
    path.write_text("grain\n")

    result = substitute({"url": f"redis://:${{file:{path}}}@host"}, ENVIRON)

    assert result.values == {"url": "redis://:grain@host"}
    assert not isinstance(result.values["url"], Whole)


def test_a_file_that_is_missing_is_named_and_remembered(tmp_path: Path) -> None:
    """Whoever watches files must also notice when this one appears."""
    path = tmp_path / "password"

    result = substitute({"orders": {"password": f"${{file:{path}}}"}}, ENVIRON)

    assert result.problems == (f"orders.password: the file {path} cannot be read: No such file or directory",)
    assert result.files == {path}


def test_a_directory_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    """A pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "pipe")

    result = substitute({"a": f"${{file:{tmp_path}}}", "b": f"${{file:{tmp_path}/pipe}}"}, ENVIRON)

    assert result.problems == (
        f"a: the file {tmp_path} is not an ordinary file",
        f"b: the file {tmp_path}/pipe is not an ordinary file",
    )


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    """Nothing of its content is repeated."""
    (tmp_path / "large").write_bytes(b"x" * (LARGEST_FILE + 1))
    (tmp_path / "binary").write_bytes(b"hunter2 \xff")

    result = substitute({"a": f"${{file:{tmp_path}/large}}", "b": f"${{file:{tmp_path}/binary}}"}, ENVIRON)

    assert result.problems == (
        f"a: the file {tmp_path}/large is larger than 1048576 bytes",
        f"b: the file {tmp_path}/binary is not UTF-8 text",
    )


def test_a_path_that_no_file_can_have_is_a_fault_like_any_other() -> None:
    """NUL in a path is an error of another type in Python."""
    assert fault("${file:/a\0b}") == "orders.password: the file '/a\\x00b' cannot be read: ValueError"


def test_every_value_knows_where_it_came_from(tmp_path: Path) -> None:
    """References are named without their defaults, which may be secret."""
    path = tmp_path / "password"
    path.write_text("grain")
    document = {
        "orders": {"host": "${HOST:-hunter2}", "url": "${USER}:${env:PORT}", "port": 1, "note": "$$"},
        "list": [f"${{file:{path}}}"],
    }

    result = substitute(document, ENVIRON)

    assert result.sources == {
        ("orders", "host"): ("${HOST}",),
        ("orders", "url"): ("${USER}", "${PORT}"),
        ("list", 0): (f"${{file:{path}}}",),
    }


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is given, variables come from the process."""
    monkeypatch.setenv("MILLPOND_TEST_VALUE", "grain")

    assert substitute({"a": "${MILLPOND_TEST_VALUE}"}).values == {"a": "grain"}


def test_the_result_does_not_show_its_values() -> None:
    """A log line that prints it gives no secret away."""
    assert "miller" not in repr(substitute({"a": "${USER}"}, ENVIRON))


def test_a_key_path_is_spelled_as_people_write_it() -> None:
    """Keys that cannot be printed on one line are escaped, long ones are cut."""
    assert spelled(("orders", "hosts", 0, "port")) == "orders.hosts[0].port"
    assert spelled(("a\nb",)) == r"'a\nb'"
    assert spelled(("x" * 200,)) == "x" * 99 + "…"
