"""The result as Markdown, put between two marks of a page: numbers there are never typed by hand."""

from collections.abc import Sequence
from typing import Final

from tests.mutation.fault import Fault
from tests.mutation.trial import Answer, Trial

MARK: Final = "make mutants"
LEAST_SHARE: Final = 0.9
"""The share of the faults it should see that the fuzzer must catch by itself."""


def fuzzer_share(trials: Sequence[Trial]) -> tuple[int, int]:
    """How many faults the fuzzer caught of those that it should see, and how many those are."""
    expected = [trial for trial in trials if trial.fault is not None and trial.fault.is_for_the_fuzzer]
    return sum(trial.fuzzer.caught for trial in expected), len(expected)


def verdict(trials: Sequence[Trial], *, fuzzed: bool) -> list[str]:
    """What is not as it should be, a sentence each."""
    wrong = [_complaint(trial) for trial in trials if not trial.is_as_it_should_be]
    caught, expected = fuzzer_share(trials)
    if fuzzed and caught < LEAST_SHARE * expected:
        wrong.append(f"the fuzzer alone caught {caught} of {expected} faults, must be {LEAST_SHARE:.0%}")
    return wrong


def _complaint(trial: Trial) -> str:
    if trial.fault is None:
        return f"the kernel without a fault fails: {trial.suite.by or trial.fuzzer.by}"
    return f"NOT CAUGHT by the suite: {trial.fault.name}, a kernel that {trial.fault.does}"


def table(trials: Sequence[Trial], *, fuzz_s: float) -> str:
    """The whole result in Markdown."""
    planted = [trial for trial in trials if trial.fault is not None]
    caught, expected = fuzzer_share(trials)
    by_suite = sum(trial.suite.caught for trial in planted)
    head = (
        f"{len(planted)} faults planted, one at a time. The suite caught {by_suite} of them. {expected} "
        f"break a guarantee that the fuzzer checks; of these the fuzzer alone caught {caught} "
        f"({caught / max(1, expected):.0%}), given {fuzz_s:g} s for each."
    )
    rows = [_row(trial.fault, trial) for trial in planted if trial.fault is not None]
    return "\n".join([
        head,
        "",
        "| a kernel that | breaks | caught by | the fuzzer alone |",
        "|---|---|---|---|",
        *rows,
    ])  # fmt: skip


def _row(fault: Fault, trial: Trial) -> str:
    numbers = ", ".join(map(str, fault.breaks)) or "events"
    by = trial.suite.by if trial.suite.caught else "**NOT CAUGHT**"
    return f"| {fault.does} | {numbers} | {by} | {_spoken(trial.fuzzer, fault)} |"


def _spoken(answer: Answer, fault: Fault) -> str:
    if answer.caught:
        return f"{answer.by}, {answer.took:.0f} s"
    return answer.by or ("not caught" if fault.is_for_the_fuzzer else "not its business")
