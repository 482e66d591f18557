"""docs/drivers.md says nothing that no test shows."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from millpond.drivers import mysql, postgresql
from millpond.drivers.kinds import Kinds

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "drivers.md").read_text()
NOT_YET = "not yet"

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("| backend |", "|---"))
]
NOTES = {
    label: re.findall(r"`([^`]+)`", text) for label, text in re.findall(r"^\[\^([\w-]+)\]: (.+)$", PAGE, re.M)
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(row[:2])[:50])
def test_every_cell_names_its_tests(row: list[str]) -> None:
    """By footnotes, and each footnote by node ids; a row that is not there yet says so and nothing else."""
    cells = row[1:]
    if NOT_YET in cells[0]:
        assert not any(cells[1:])
        return

    for cell in cells:
        labels = re.findall(r"\[\^([\w-]+)\]", cell)
        assert labels, cell
        assert all(NOTES[label] for label in labels), cell


def test_every_footnote_is_used() -> None:
    """One that no cell refers to was forgotten when its cell changed."""
    referred = {label for row in ROWS for cell in row for label in re.findall(r"\[\^([\w-]+)\]", cell)}

    assert referred == set(NOTES)


def test_every_test_that_is_named_is_there(request: pytest.FixtureRequest) -> None:
    """Pytest finds each of them by its node id, parameters included."""
    named = sorted({test for tests in NOTES.values() for test in tests})
    nodes = [test if test.startswith("tests/") else f"tests/drivers/{test}" for test in named]
    assert len(nodes) > 40
    here = {item.nodeid for item in request.session.items}
    if set(nodes) <= here | {node.partition("[")[0] for node in here}:
        return  # the whole suite runs, and all of them with it

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *nodes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert done.returncode == 0, done.stderr


def test_every_kind_and_library_has_a_row() -> None:
    """A backend without a row is one whose behaviour nobody has written down."""
    shown = {(re.findall(r"`([^`]+)`", row[0])[0], re.split(r"\W", row[1])[0]) for row in ROWS}

    assert set(Kinds().names) <= {kind for kind, _ in shown}
    for kind, libraries in (("mysql", mysql.Library), ("postgresql", postgresql.Library)):
        assert {(kind, library) for library in get_args(libraries)} <= shown
