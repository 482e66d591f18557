"""mutmut on the kernel's pure parts: `python -m tests.mutation.pure`. Who survives must be explained here."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.pages import paste

ROOT: Final = Path(__file__).resolve().parents[2]
MARK: Final = "make mutmut"
TESTS: Final = {
    "ledger": "test_ledger.py",
    "waiters": "test_queue.py",
    "slot": "test_slot_states.py",
    "allowance": "test_allowance.py",
    "breaker": "test_circuit_breaker.py",
    "backoff": "test_pauses_and_lifetimes.py",
    "retirement": "test_pauses_and_lifetimes.py",
}
"""Modules of `_core` and the tests, of these only, that have to kill what mutmut makes of them."""


class Survivor(NamedTuple):
    """A mutant that no test has killed."""

    place: str  # module and function
    line: str  # what the original says
    changed: str  # what the mutant says; empty: the line is gone


_ORDER_ONLY: Final = "only the order of places counts, not where they begin nor how far they are apart"
_ALWAYS_SET: Final = "every move sets it to 0, and it is read after a move only"
EXPLAINED: Final = {
    Survivor("ledger._leave", "case SlotState.GONE:", ""): (
        "it says that nothing is to be done, which is also what happens when it is not said"
    ),
    Survivor(
        "ledger.dismiss", "self.by_id.pop(id(slot.conn), None)", "self.by_id.pop(id(slot.conn), )"
    ): "a connection that was admitted is always there; the default is a second lock on the same door",
    Survivor("allowance.leave", "if self._held.pop(member, 0):", "if self._held.pop(member, None):"): (
        "None is as false as 0"
    ),
    Survivor(
        "allowance.should_yield",
        "share = max(1, self._limit // max(1, len(self._held)))",
        "share = max(1, self._limit // max(2, len(self._held)))",
    ): "with one pool there is nobody to share with; this `max` only keeps from dividing by nothing",
    Survivor("waiters.__init__", "self._before = count(-1, -1)", "self._before = count(-2, -1)"): _ORDER_ONLY,
    Survivor("waiters.__init__", "self._before = count(-1, -1)", "self._before = count(-1, -2)"): _ORDER_ONLY,
    Survivor(
        "waiters._rank",
        "if other.place is not None and other.place > place:",
        "if other.place is not None and other.place >= place:",
    ): "an equal place is that of its own first turn, which is over; before or behind it is the same",
    Survivor("breaker.__init__", "self._successes = 0", "self._successes = None"): _ALWAYS_SET,
    Survivor("breaker.__init__", "self._successes = 0", "self._successes = 1"): _ALWAYS_SET,
}
"""Who survives, and why nobody can tell it from the original."""


def main() -> int:
    """Run mutmut; 1 when a survivor is not explained, or an explanation has no survivor."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.pure", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--page", type=Path, help="put the result between the marks of this page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millpond-mutmut-") as name:
        place = Path(name)
        _lay_out(place)
        _mutmut(place, "run", "--max-children", str(options.jobs))
        outcomes = _outcomes(place)
        survivors = [_survivor(place, mutant) for mutant in outcomes if outcomes[mutant] != "killed"]
    text = _told(outcomes, survivors)
    print(text)
    if options.page is not None:
        paste(options.page, MARK, text)
    wrong = [f"not explained: {one}" for one in survivors if one not in EXPLAINED]
    wrong += [f"explained, but killed: {one}" for one in EXPLAINED if one not in survivors]
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


def _lay_out(place: Path) -> None:
    """Copy what mutmut needs; it writes beside its sources, and nothing of that is to stay."""
    unwanted = shutil.ignore_patterns("__pycache__")
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, place / part, ignore=unwanted)
    sources = [f"src/millpond/_core/{module}.py" for module in TESTS]
    tests = sorted({f"tests/kernel/{test}" for test in TESTS.values()})
    config = f'\n[tool.mutmut]\nsource_paths = ["src/"]\nonly_mutate = {sources}\n'
    config += f"pytest_add_cli_args_test_selection = {tests}\n"
    (place / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8") + config)


def _mutmut(place: Path, *words: str) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), *words]
    done = subprocess.run(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1200,
    )
    if done.returncode:
        said = re.sub(r"^[\u2800-\u28ff].*\n?", "", done.stdout, flags=re.MULTILINE)  # without the spinner
        raise RuntimeError(f"mutmut {' '.join(words)} ended with {done.returncode}:\n{said}")
    return done.stdout


def _outcomes(place: Path) -> dict[str, str]:
    """What became of each mutant."""
    listed = _mutmut(place, "results", "--all", "true")
    return dict(re.findall(r"^\s*(millpond\S+): (.+)$", listed, re.MULTILINE))


def _survivor(place: Path, mutant: str) -> Survivor:
    diff = _mutmut(place, "show", mutant)
    words = [
        re.findall(rf"^{re.escape(sign)}(?!{re.escape(sign * 2)})\s*(.*)$", diff, re.MULTILINE)
        for sign in "-+"
    ]
    removed, added = ((found or [""])[0] for found in words)
    return Survivor(_place(mutant), removed, added)


def _place(mutant: str) -> str:
    """`ledger.dismiss`, of a name as mutmut makes them."""
    module, _, name = mutant.removeprefix("millpond._core.").partition(".")
    return f"{module}.{re.sub(r'__mutmut_[0-9]+$', '', name).split('ǁ')[-1].removeprefix('x_')}"


def _told(outcomes: dict[str, str], survivors: Sequence[Survivor]) -> str:
    counts = Counter(outcomes.values())
    rows = [
        f"| `{one.place}` | `{one.line}` | `{one.changed or '(nothing)'}` | "
        f"{EXPLAINED.get(one, '**not explained**')} |"
        for one in survivors
    ]
    return "\n".join([
        f"{len(outcomes)} mutants of {', '.join(TESTS)}: {counts['killed']} killed by the tests of these "
        f"modules alone, {len(survivors)} not.",
        "",
        "| in | instead of | the mutant says | and survives, because |",
        "|---|---|---|---|",
        *rows,
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
