"""Lines of the table of targets, tables, and what a report makes of them."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import limits, report
from benchmarks.harness import Spread
from benchmarks.report import Run
from benchmarks.results import Figure, Result, Sign, Table, Target
from tests.pages import paste


@pytest.mark.parametrize(
    ("sign", "median", "is_met"),
    [
        ("≤", 1.0, True),
        ("≤", 1.01, False),
        ("<", 0.99, True),
        ("<", 1.0, False),
        ("≥", 1.0, True),
        ("≥", 0.99, False),
    ],
    ids=str,
)
def test_a_target_is_met_by_its_median(sign: Sign, median: float, is_met: bool) -> None:
    """The quartiles are for the reader."""
    target = Target("speed", sign, 1.0, Spread(median, median, median))

    assert target.is_met is is_met
    assert target.cells()[3] == ("met" if is_met else "**not met**")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Spread(0.9, 0.8, 0.95, 9), "met"),
        (Spread(0.9, 0.8, 1.1, 9), "met, undecided"),
        (Spread(1.05, 0.8, 1.1, 9), "**not met**, undecided"),
        (Spread(1.05, 1.01, 1.1, 9), "**not met**"),
        (Spread(0.9, 0.8, 1.1, 2), "met, too few rounds"),
        (Spread(1.05, 1.05, 1.05, 1), "**not met**, too few rounds"),
        (Spread(1.0, 1.0, 1.0, 3), "met"),
    ],
    ids=str,
)
def test_a_verdict_says_when_it_may_be_luck(found: Spread, verdict: str) -> None:
    """When the limit lies between the quartiles another run may say otherwise, whatever this one says."""
    assert Target("speed", "≤", 1.0, found).cells()[3] == verdict


def test_what_could_not_be_measured_is_not_met() -> None:
    """A gap stands in the table as one."""
    target = Target("speed", "≤", 1.0, None)

    assert target.is_met is None
    assert target.cells() == ["speed", "≤ 1", "", "**not measured**", ""]


def test_a_number_without_a_spread_is_shown_as_one_number() -> None:
    """Bytes do not vary from round to round."""
    assert Target("size", "<", 1024, Spread(807, 807, 807), "bytes").cells()[1:3] == [
        "< 1024 bytes",
        "807 bytes",
    ]


def some_result() -> Result:
    return Result(
        [Target("speed", "≤", 1.0, Spread(1.5, 1.2, 2.0), note="of light"), Target("gap", "<", 2.0, None)],
        [Table("Costs", ["pool", "µs"], [["ours", "1"], ["a|b", "2"]], "Of all.")],
        [Figure("costs", "Costs", "bars", ["ours"], {"µs": [1.0]}, marks={"now": 1.0})],
        {"theirs": "OSError"},
    )


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    """Parts are measured in processes of their own, and reports are written again later."""
    file = tmp_path / "all-3.11.json"
    run = Run({"Python": "CPython 3.11"}, "3.11", {"asyncio": some_result()})

    run.save(file)

    assert Run.load(file) == run
    json.loads(file.read_text())


def test_a_table_is_markdown() -> None:
    """Title, note, and a cell that holds a bar does not break its row."""
    assert some_result().tables[0].markdown(2) == (
        "## Costs\n\nOf all.\n\n| pool | µs |\n| --- | --- |\n| ours | 1 |\n| a/b | 2 |\n"
    )


def test_runs_stand_side_by_side() -> None:
    """One line a measure, a column for each interpreter and loop; what is missed or in doubt stands out."""
    slow, fast = some_result(), Result([Target("speed", "≤", 1.0, Spread(0.9, 0.8, 1.1))])
    runs = [Run({}, "3.11", {"asyncio": slow}), Run({}, "3.13", {"asyncio": fast})]

    lines = report.side_by_side(runs).splitlines()

    assert lines[0] == "| measure | 3.11, asyncio | 3.13, asyncio |"
    assert lines[2] == "| speed | 1.50 (≤ 1) **!** | 0.90 (≤ 1) ? |"


def test_what_was_not_measured_is_said_with_the_reason() -> None:
    """No peer leaves a report silently."""
    assert report.missing([Run({}, "3.11", {"uvloop": some_result()})]) == [
        "Not measured (3.11, uvloop): theirs: OSError"
    ]


def test_a_report_is_put_between_the_marks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is around them stays; numbers on a page come from a run."""
    monkeypatch.setattr(report, "PLACE", tmp_path)
    found = some_result()
    found.figures.clear()  # matplotlib belongs to the benchmarks' own environment
    Run({"Python": "CPython 3.11"}, "3.11", {"asyncio": found}).save(tmp_path / "targets-3.11.json")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin: make bench -->\nold\n<!-- end: make bench -->\nafter\n")

    printed = report.write(is_whole=False, page=page)

    assert "| speed | ≤ 1 | 1.50 (1.20 to 2.00) | **not met** | of light |" in printed
    text = page.read_text()
    assert text.startswith("before\n<!-- begin: make bench -->\n- Python: CPython 3.11\n")
    assert "old" not in text
    assert text.endswith("<!-- end: make bench -->\nafter\n")


def kept_of(python: str, commit: str, place: Path) -> None:
    found = Result([Target(f"speed of {python}", "≤", 1.0, Spread(0.5, 0.4, 0.6))])
    run = Run({"date": "2026-01-02 03:04 UTC", "commit": commit}, python, {"asyncio": found})
    for kind in ("targets", "all"):
        run.save(place / f"{kind}-{python}.json")


@pytest.mark.parametrize("is_whole", [False, True])
def test_what_is_printed_is_the_run_of_this_interpreter(
    is_whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was kept of another stands in the report, and says when and of which commit it was."""
    monkeypatch.setattr(report, "PLACE", tmp_path)
    monkeypatch.setattr(report, "sources", lambda: "c0ffee")
    kept_of("3.7", "abad1dea", tmp_path)
    kept_of(report.PYTHON, "c0ffee", tmp_path)

    printed = report.write(is_whole=is_whole)

    text = (tmp_path / ("report-all.md" if is_whole else "report.md")).read_text()
    assert "speed of 3.7" in text
    assert text.count("- kept: from a run of abad1dea; this is c0ffee") == text.count("- kept:") == 1
    assert "3.7" not in printed
    assert "- date: 2026-01-02 03:04 UTC" in printed


def test_a_head_says_when_it_was_and_what_the_machine_had_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the beginning as at the end: work that came in between slows some rounds and not others."""
    monkeypatch.setattr(report, "_load", iter(["0.1 0.2 0.3", "7.0 7.1 7.2"]).__next__)

    about = report.machine("make bench", report.Began.now())

    assert (about["load when it began"], about["load when it ended"]) == ("0.1 0.2 0.3", "7.0 7.1 7.2")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", about["date"])


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    """It may be the wrong page."""
    page = tmp_path / "page.md"
    page.write_text("nothing\n")

    with pytest.raises(ValueError, match="begin: make bench"):
        paste(page, "make bench", "text")


def test_the_docs_have_the_places_that_the_report_fills() -> None:
    """Or `make bench PAGE=docs/benchmarks.md` would measure for minutes and then fail."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()

    for mark in (report.QUICK, report.WHOLE):
        assert text.count(f"<!-- begin: {mark} -->") == text.count(f"<!-- end: {mark} -->") == 1


def test_a_target_that_is_not_met_says_what_was_tried() -> None:
    """Under the table, once for each reason; one that is met says nothing."""
    name = "uncontended lease ÷ `async with` over nothing"
    missed = Target(name, "≤", 3.0, Spread(3.2, 3.1, 3.3), key=limits.LEASE)
    met = Target(name, "≤", 3.0, Spread(2.9, 2.8, 3.0), key=limits.LEASE)

    def told(*targets: Target) -> str:
        return report.targets(report.Run({}, "3.11", {"asyncio": Result(targets=list(targets))}))

    assert told(missed, missed).count("Without gain") == 1
    assert f"- {name}: " in told(missed)
    assert "Not met" not in told(met)


def test_a_miss_between_the_quartiles_is_undecided() -> None:
    """Half of the rounds would have met it: who reads the reason should know that it may need none."""
    unclear = Target("speed", "≤", 3.0, Spread(3.1, 2.9, 3.3), key=limits.LEASE)

    told = report.targets(report.Run({}, "3.11", {"asyncio": Result(targets=[unclear])}))

    assert "- speed (undecided): " in told


def test_each_text_is_about_one_target() -> None:
    """A throughput that is missed is not explained by what was tried for another."""
    assert len(set(limits.TEXTS.values())) == len(limits.TEXTS)
    assert all(len(text) > 80 for text in limits.TEXTS.values())
