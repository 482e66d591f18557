"""What `import millpond` costs, counted rather than timed: the modules it loads and the calls it makes.

How many milliseconds that is: docs/benchmarks.md.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

import pytest

# A lean part of the standard library that asyncio has not loaded already; a new name here is a decision.
LEAN: Final = {"__future__", "bisect", "copy", "dataclasses", "random"}

MOST_MODULES: Final = 36  # 30 are there; each takes a fifth of a millisecond, uncompiled 1 ms more
MOST_CALLS: Final = 10_500  # 7,700 to 8,500; most of them are dataclasses and enums in the making

_PROGRAM: Final = """
import asyncio, json, re, sys
before, calls, patterns = set(sys.modules), 0, []

def count(frame, event, argument):
    global calls
    calls += event == "call"
    if event == "call" and frame.f_code is re.compile.__code__:
        patterns.append(frame.f_back.f_globals["__name__"])

sys.setprofile(count)
import millpond
sys.setprofile(None)
new = sorted(set(sys.modules) - before)
print(json.dumps({"new": new, "calls": calls, "patterns": patterns}))
"""


@pytest.fixture(scope="module")
def loaded() -> Mapping[str, Any]:
    """What a fresh interpreter that has asyncio does on `import millpond`."""
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=150
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_nothing_dear_is_imported_that_asyncio_has_not_imported(loaded: Mapping[str, Any]) -> None:
    """What is needed later, or never, is imported where it is needed."""
    others = {name for name in loaded["new"] if name.partition(".")[0] != "millpond"}

    assert {name for name in others if not name.startswith("_") or name == "__future__"} <= LEAN


def test_the_kernel_and_the_vocabulary_are_all_of_it(loaded: Mapping[str, Any]) -> None:
    """Drivers, registry, gateway and the rest wait until somebody wants them."""
    own = [name for name in loaded["new"] if name.partition(".")[0] == "millpond"]
    packages = {name.split(".")[1] for name in own if "." in name}

    assert packages <= {"_core", "driver", "errors", "events", "settings", "status"}
    assert len(own) <= MOST_MODULES


def test_importing_makes_no_more_calls_than_it_did(loaded: Mapping[str, Any]) -> None:
    """A dataclass more or two is no harm; twenty are, or a table that is computed on import."""
    assert 1000 < loaded["calls"] <= MOST_CALLS


def test_no_regular_expression_is_compiled_on_import(loaded: Mapping[str, Any]) -> None:
    """Those of millpond serve messages of errors: a process that runs well never needs them."""
    assert [name for name in loaded["patterns"] if name.startswith("millpond")] == []
