"""A logger that does not repeat itself."""

import logging

import pytest

from millpond.web.sparing import Sparing


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_same_thing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log = Sparing(logging.getLogger("test"), interval=10.0, clock=Clock())

    for _ in range(1000):
        log.error("key", "went wrong: %s", "badly")

    assert caplog.messages == ["went wrong: badly"]


def test_other_things_are_said_too(caplog: pytest.LogCaptureFixture) -> None:
    log = Sparing(logging.getLogger("test"), interval=10.0, clock=Clock())

    log.warning("one", "one")
    log.warning("two", "two")

    assert caplog.messages == ["one", "two"]


def test_after_the_interval_it_says_how_many_were_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = Sparing(logging.getLogger("test"), interval=10.0, clock=clock)

    for second in range(12):
        clock.now = float(second)
        log.warning("key", "again: %s", second)

    assert caplog.messages == ["again: 0", "again: 10 (9 more of these in the last 10 s)"]


def test_memory_is_bounded() -> None:
    """Keys may come from outside; only the latest are remembered."""
    log = Sparing(logging.getLogger("test.silent"), clock=Clock())
    logging.getLogger("test.silent").disabled = True

    for key in range(5000):
        log.warning(key, "x")

    assert len(log._said) <= 256
