"""One trial: plant a fault into a copy of the package, then ask the suite and the fuzzer."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutation.fault import Fault

ROOT: Final = Path(__file__).resolve().parents[2]
SUITE: Final = ROOT / "tests" / "kernel"
SLOW: Final = ("bounds", "histories", "real_loops", "sweep")  # test files so named come last
NOT_ASKED: Final = ("test_planted_faults.py", "test_hot_path.py")
"""The one reads the kernel's text, not its behaviour; the other notices every line more or less."""
TEST_S: Final = 60
"""Longest time (seconds) of one test; a pool that hangs in a step of its own is found by that."""
SUITE_S: Final = 600.0
GRACE_S: Final = 60.0
"""How long (seconds) the fuzzer may take beyond what it was given before it counts as hanging."""


class NotTheCopy(Exception):
    """The tests would have run on another kernel than the one with the fault."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the suite, or the fuzzer, had to say.

    Attributes:
        caught: whether it failed.
        by: the first test that failed, or the fuzzer's seed.
        took: seconds.
        text: what was printed.
    """

    caught: bool
    by: str
    took: float
    text: str


@dataclass(frozen=True, slots=True)
class Trial:
    """A fault (None: the kernel as it is) and who caught it."""

    fault: Fault | None
    suite: Answer
    fuzzer: Answer

    @property
    def is_as_it_should_be(self) -> bool:
        """The suite catches every fault; without a fault nobody complains."""
        if self.fault is None:
            return not self.suite.caught and not self.fuzzer.caught
        return self.suite.caught


def attempt(fault: Fault | None, *, fuzz_s: float) -> Trial:
    """Plant `fault` and see who notices; None is the control: nobody may."""
    with copied(fault) as place:
        _insist_on(place)
        return Trial(fault, _ask_suite(place), _ask_fuzzer(place, fuzz_s))


@contextmanager
def copied(fault: Fault | None) -> Iterator[Path]:
    """A directory with a copy of the package, `fault` planted in it."""
    with tempfile.TemporaryDirectory(prefix="millpond-fault-") as name:
        place = Path(name)
        shutil.copytree(
            ROOT / "src" / "millpond", place / "millpond", ignore=shutil.ignore_patterns("__pycache__")
        )
        if fault is not None:
            fault.plant(place)
        yield place


def _insist_on(place: Path) -> None:
    program = "import millpond; print(millpond.__file__)"
    found, _, _ = _run([sys.executable, "-c", program], place, 60.0)
    if not Path(found.strip()).is_relative_to(place):
        raise NotTheCopy(f"the tests would import {found.strip()}, not the copy in {place}")


def _ask_suite(place: Path) -> Answer:
    """Run the kernel's tests, quick ones first, up to the first failure."""
    files = sorted(path for path in SUITE.glob("test_*.py") if path.name not in NOT_ASKED)
    slow = [path for path in files if any(word in path.name for word in SLOW)]
    quick = [path for path in files if path not in slow]
    took = 0.0
    for some in (quick, slow):
        answer = _pytest(place, some)
        took += answer.took
        if answer.caught:
            return Answer(True, answer.by, took, answer.text)
    return Answer(False, "", took, "")


def _pytest(place: Path, files: Sequence[Path]) -> Answer:
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
    options = ["-o", f"timeout={TEST_S}", *(str(path.relative_to(ROOT)) for path in files)]
    text, status, in_time = _run([*command, *options], place, SUITE_S)
    took = time.monotonic() - began
    if not in_time:
        return Answer(True, "hangs", took, text)
    if status == 0:
        return Answer(False, "", took, text)
    failed = re.search(r"^(?:FAILED|ERROR) tests/kernel/(\S+\.py)(?:::([^\[\s]+))?", text, re.MULTILINE)
    if failed is None and status == 1:
        return Answer(True, "an error after the last test", took, text)
    if failed is None:
        raise RuntimeError(f"pytest ended with {status} and names no test:\n{text}")
    hangs = " (hangs)" if f"Timeout (>{TEST_S}" in text else ""
    return Answer(True, f"{failed[1]}: {_sentence(failed[2])}{hangs}", took, text)


def _sentence(test: str | None) -> str:
    return "import" if test is None else test.removeprefix("test_").replace("_", " ")


def _ask_fuzzer(place: Path, fuzz_s: float) -> Answer:
    """Run the fuzzer alone, up to its first failure; 0 seconds: do not ask it."""
    if not fuzz_s:
        return Answer(False, "", 0.0, "")
    began = time.monotonic()
    command = [sys.executable, "-m", "millpond.testing.histories", "--seconds", f"{fuzz_s:g}"]
    text, status, in_time = _run(command, place, fuzz_s + GRACE_S)
    took = time.monotonic() - began
    if not in_time:
        return Answer(True, "hangs", took, text)
    if status == 0:
        return Answer(False, "", took, text)
    seed = re.search(r"--seed (\d+)", text)
    if status != 1 or seed is None:
        raise RuntimeError(f"the fuzzer ended with {status} and names no seed:\n{text}")
    if not _is_well_without(seed[1]):
        return Answer(False, f"seed {seed[1]} fails without the fault too", took, text)
    return Answer(True, f"seed {seed[1]}", took, text)


def _is_well_without(seed: str) -> bool:
    """The history that failed must pass on the kernel without the fault, or it has caught nothing."""
    command = [sys.executable, "-m", "millpond.testing.histories", "--seed", seed, "--count", "1"]
    with copied(None) as place:
        _, status, in_time = _run(command, place, GRACE_S)
    return in_time and status == 0


def _run(command: Sequence[str], place: Path, longest: float) -> tuple[str, int, bool]:
    """Run with the copy before the installed package: what it printed, its status, and whether in time."""
    environment = {**os.environ, "PYTHONPATH": str(place), "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as running:  # fmt: skip
        try:
            text, _ = running.communicate(timeout=longest)
            return text, running.returncode, True
        except subprocess.TimeoutExpired:
            return _ended(running), -1, False


def _ended(running: "subprocess.Popen[str]") -> str:
    """Kill what hangs, the children that its tests forked too; what it had printed."""
    os.killpg(running.pid, signal.SIGKILL)
    return running.communicate()[0]
