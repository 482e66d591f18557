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
TRAPS = (ROOT / "docs" / "design" / "client-libraries.md").read_text()
NOT_YET = "not yet"

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("| backend |", "|---"))
]
NOTES = {
    label: re.findall(r"`([^`]+)`", text) for label, text in re.findall(r"^\[\^([\w-]+)\]: (.+)$", PAGE, re.M)
}

PREFIXES = {
    "postgresql": {"pg", "ps"}, "mysql": {"my"}, "redis": {"re"}, "rabbitmq": {"mq"}, "sqlite": {"li"},
    "grpc": {"gr"}, "from_factory": {"fn"},
}  # fmt: skip
"""What the footnotes of a kind begin with."""
BACKENDS = {
    "pg": "postgresql|asyncpg", "ps": "psycopg", "my": "mysql|asyncmy", "re": "redis",
    "mq": "rabbitmq|channel", "li": "(?i)sqlite", "gr": "grpc", "fn": "(?i)function|factory",
}  # fmt: skip
"""What the node id of a test says that runs on the backend."""


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


def test_every_test_that_is_named_is_there_and_runs_on_that_backend(request: pytest.FixtureRequest) -> None:
    """Pytest finds each of them by its node id, parameters included, and the backend is among them."""
    named = sorted({test for tests in NOTES.values() for test in tests})
    assert len(named) > 40
    found = collected([node_of(test) for test in named], request.session)

    missing = [test for test in named if not nodes_of(test, found)]
    elsewhere = [
        (label, test)
        for label, tests in NOTES.items()
        for test in tests
        if not any(re.search(BACKENDS[label[:2]], node) for node in nodes_of(test, found))
    ]

    assert not missing
    assert not elsewhere


def test_every_trap_has_a_test(request: pytest.FixtureRequest) -> None:
    """docs/design/client-libraries.md names at least one in each line, and pytest finds it."""
    lines = [line for line in TRAPS.splitlines() if line.startswith("| ")][1:]
    tests = [re.findall(r"`((?:tests/\w+/)?test_\w+\.py::[^`]+)`", line) for line in lines]
    named = sorted({test for some in tests for test in some})
    found = collected([node_of(test) for test in named], request.session)

    assert len(lines) > 40
    assert all(tests)
    assert not [test for test in named if not nodes_of(test, found)]


def node_of(test: str) -> str:
    """The node id of a test that the page names."""
    return test if test.startswith("tests/") else f"tests/drivers/{test}"


def nodes_of(test: str, found: set[str]) -> list[str]:
    """The nodes that a name stands for: one, or a test with all its parameters."""
    name = node_of(test)
    return [node for node in found if node == name or node.startswith(f"{name}[")]


def collected(nodes: list[str], session: pytest.Session) -> set[str]:
    """What pytest finds under these names; all that this run has collected where that holds them."""
    here = {item.nodeid for item in session.items}
    if set(nodes) <= here | {node.partition("[")[0] for node in here}:
        return here  # the whole suite runs, and all of them with it
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *nodes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def test_a_cell_refers_to_tests_of_its_own_kind() -> None:
    """Or what holds for one backend would be shown by what another does."""
    for row in ROWS:
        kind = re.findall(r"`([^`]+)`", row[0])[0]
        labels = {label[:2] for cell in row for label in re.findall(r"\[\^([\w-]+)\]", cell)}
        assert labels <= PREFIXES[kind], row[0]


def test_every_kind_and_library_has_a_row() -> None:
    """A backend without a row is one whose behaviour nobody has written down."""
    shown = {(re.findall(r"`([^`]+)`", row[0])[0], re.split(r"\W", row[1])[0]) for row in ROWS}

    assert set(Kinds().names) <= {kind for kind, _ in shown}
    for kind, libraries in (("mysql", mysql.Library), ("postgresql", postgresql.Library)):
        assert {(kind, library) for library in get_args(libraries)} <= shown
