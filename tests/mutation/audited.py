"""What the auditor asks, guarantee by guarantee, as Markdown: `python -m tests.mutation.audited`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from millpond.testing import FaultKind, guarantees
from tests.pages import paste

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "how-we-know.md"
MARK: Final = "the auditor"


def audited() -> str:
    """The table of all that is asked."""
    return "\n".join(["| guarantee | what must be true | asked |", "|---|---|---|", *_rows()])


def _rows() -> Iterator[str]:
    for number, title in guarantees.TITLES.items():
        for check, when in guarantees.everything():
            if check.guarantee == number:
                told = " (of a program that says what it does)" if check.strict else ""
                yield f"| {number}, {title} | {check.sentence}{told} | {when} |"
        kinds = sorted(kind.value for kind in FaultKind if guarantees.FAULTS.get(kind, 8) == number)
        if kinds:
            yield f"| {number}, {title} | The backend never saw: {'; '.join(kinds)} | after a step |"


if __name__ == "__main__":
    paste(PAGE, MARK, audited())
