"""How the command talks: one line each, nothing secret."""

import logging

import pytest

from millpond.cli import words


def test_columns_line_up() -> None:
    lines = words.aligned(
        [
            ("orders", "postgresql", "ok", "3.2 ms"),
            ("q", "sqlite", "unreachable", ""),
            ("x", "y", "ok", "13.2 ms"),
        ],
        right=frozenset({3}),
    )

    assert lines == [
        "orders  postgresql  ok            3.2 ms",
        "q       sqlite      unreachable",
        "x       y           ok           13.2 ms",
    ]


def test_nothing_to_align_is_no_error() -> None:
    assert words.aligned([]) == []


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words.complain("first\nsecond", "third")

    assert capsys.readouterr().err == "millpond: first second\nmillpond: third\n"


def test_an_exception_in_the_log_is_one_line_without_secrets() -> None:
    """Its type, its masked text and the way it came; no source lines, no causes."""
    formatter = words.OneLine("%(levelname)s %(name)s: %(message)s")
    try:
        try:
            raise OSError("postgresql://app:hunter2@db/app")
        except OSError as error:
            raise ValueError("password=hunter2\nand more") from error
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 0, "failed", (), (type(error), error, error.__traceback__)
        )

    line = formatter.format(record)

    assert line.startswith("ERROR x: failed ValueError: password=*** and more (at test_words.py:")
    assert "hunter2" not in line
    assert "\n" not in line


def test_a_message_with_a_url_hides_its_password() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "to %s", ("redis://:hunter2@h",), None)

    assert words.OneLine("%(message)s").format(record) == "to redis://***@h"
