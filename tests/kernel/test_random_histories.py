"""Random histories of pools, audited after every step: 2,000 here, any number by `make fuzz`."""

import math
import os
import re
import subprocess
import sys

import pytest

from millpond._core.lending import Lender
from millpond.testing.histories import OPERATIONS, play
from millpond.testing.histories.__main__ import main
from millpond.testing.histories.playing import Sum, play_all
from tests import summary

BATCHES = 40
BATCH = 50
TOTAL = Sum()

BROKEN = """
import sys
from millpond._core.lending import Lender
from millpond.testing.histories.__main__ import main
Lender.take_back = lambda self, hold: None
sys.exit(main(["--seed", "40", "--count", "60"]))
"""
"""A kernel that loses what a cancelled borrower was handed, and the fuzzer on it."""


def in_another_process(*command: str, hash_seed: int) -> tuple[int, str]:
    """Exit status and output of an interpreter that hashes strings in its own way; durations cut out."""
    ended = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert ended.stderr == ""
    return ended.returncode, re.sub(r" in [\d.]+ s: \d+ steps/s", "", ended.stdout)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_whatever_happens_every_guarantee_holds(batch: int) -> None:
    """No borrower hangs, none shares, nothing is lost, the pool heals; a failure says how to replay it."""
    played = play_all(range(batch * BATCH, (batch + 1) * BATCH), OPERATIONS, math.inf)
    TOTAL.add(played)
    summary.say(
        "random histories",
        f"{TOTAL.histories} of at least {OPERATIONS} operations, {TOTAL.operations} operations, "
        f"{TOTAL.steps} steps, every one audited",
    )

    assert played.failed is None, f"seed {played.failed}: {played.why}"
    assert played.histories == BATCH
    assert played.operations >= BATCH * OPERATIONS


def test_a_history_is_the_same_each_time() -> None:
    """The seed decides everything."""
    assert play(11) == play(11)
    assert play(11) != play(12)


def test_a_history_is_the_same_in_every_process() -> None:
    """It depends on no order of hashes and no address."""
    command = ("-m", "millpond.testing.histories", "--seed", "3", "--count", "10")

    one, other = (in_another_process(*command, hash_seed=seed) for seed in (1, 2))

    assert one == other
    assert one[0] == 0
    assert "10 histories" in one[1]


def test_a_failure_is_replayed_to_the_letter_in_another_process() -> None:
    """Same seed, same step, same message; the fuzzer ends with 1 and prints the command."""
    one, other = (in_another_process("-c", BROKEN, hash_seed=seed) for seed in (1, 2))

    assert one == other
    assert one[0] == 1
    assert re.search(r"seed \d+ failed:\nmillpond\S+AuditFailure: guarantee \d+ \(", one[1])
    assert re.search(r"python -m millpond.testing.histories --seed \d+ --count 1\b", one[1])


def test_the_printed_command_plays_the_failed_history(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails there and then, in the same way."""
    monkeypatch.setattr(Lender, "take_back", lambda self, hold: None)
    assert main(["--seed", "40", "--count", "60"]) == 1
    said = capsys.readouterr().out
    seed = re.search(r"--seed (\d+) --count 1", said)
    assert seed is not None

    assert main(["--seed", seed[1], "--count", "1"]) == 1
    assert capsys.readouterr().out.partition("failed:")[2] == said.partition("failed:")[2]


def test_histories_can_be_shared_among_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them are played, whoever does it."""
    assert main(["--count", "45", "--jobs", "2"]) == 0

    assert capsys.readouterr().out.startswith("45 histories")


def test_playing_ends_when_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a count it is the seconds that count."""
    assert main(["--seconds", "0.2"]) == 0

    assert "histories" in capsys.readouterr().out


def test_somebody_has_to_say_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither seconds nor a count would be for ever."""
    with pytest.raises(SystemExit):
        main([])

    assert "--seconds or --count" in capsys.readouterr().err
