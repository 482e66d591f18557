"""The faults that the mutation check plants are still faults of this kernel; `make mutants` plants them."""

import ast
from pathlib import Path

import pytest

from tests.mutation.fault import KERNEL, Fault, StaleFault
from tests.mutation.faults import FAULTS

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_changes_one_place_and_leaves_python_behind(fault: Fault) -> None:
    """A fault whose text is gone would prove nothing: say what to replace now, in tests/mutation."""
    text = (SOURCES / KERNEL / fault.file).read_text(encoding="utf-8")

    assert ast.dump(ast.parse(fault.spoiled(text))) != ast.dump(ast.parse(text))


def test_every_guarantee_has_a_fault_that_breaks_it() -> None:
    """Fifteen guarantees, and names that tell the faults apart."""
    assert {number for fault in FAULTS for number in fault.breaks} == set(range(1, 16))
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_fault_whose_text_is_gone_is_an_error() -> None:
    """It is named, with the text that it looks for."""
    fault = Fault(name="stale", does="nothing", breaks=(1,), file="pool.py", find="not there", put="")

    with pytest.raises(StaleFault, match=r"stale: 'not there' is 0 times in pool\.py"):
        fault.spoiled("something else")
