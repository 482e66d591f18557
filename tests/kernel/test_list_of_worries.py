"""The list of worries names tests that exist, and no guarantee is without one."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(
    r"^\| (?P<worry>[^|]+) \| `(?P<file>\w+\.py)`: `(?P<test>\w+)` \| (?P<guarantees>[\d, ]+) \|$"
)


def rows() -> list[re.Match[str]]:
    """The rows of the table, without its heads."""
    lines = (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line.startswith("| ") and not line.startswith(("| worry |", "|---"))]
    found = [match for line in wanted if (match := ROW.match(line))]
    assert len(found) == len(wanted)
    return found


def names_in(file: str) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_worry_has_a_test_that_exists() -> None:
    """A test that was renamed or lost is missed here."""
    missing = [row["worry"] for row in rows() if row["test"] not in names_in(row["file"])]

    assert missing == []


def test_every_guarantee_has_a_worry_and_a_test() -> None:
    """All fifteen."""
    covered = {int(number) for row in rows() for number in row["guarantees"].split(",")}

    assert covered == set(range(1, 16))


def test_no_worry_stands_in_the_list_twice() -> None:
    """Each has one row."""
    worries = [row["worry"] for row in rows()]

    assert len(worries) == len(set(worries))
