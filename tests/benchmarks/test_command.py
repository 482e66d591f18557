"""`python -m benchmarks`: what it refuses, what it makes of a part that fails, and how it is stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import report
from benchmarks.harness import Spread
from benchmarks.results import Result, Target

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "at least 1, not 0"),
        (["--server-rounds", "-1"], "at least 1, not -1"),
        (["--page", "nowhere.md"], "nowhere.md"),
        (["--page", "empty.md"], "begin: make bench -->"),
        (["--all", "--page", "quick.md"], "begin: make bench-all -->"),
        (["--part", "backends"], "nothing of backends: add --all"),
        (["--loop", "uvloop", "--part", "pools"], "nothing of pools under uvloop: add --all"),
        (["--part", "pools", "--page", "quick.md"], "for a whole run"),
        (["--out", "found.json"], "for one --part"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One error, and not after minutes."""
    monkeypatch.chdir(tmp_path)
    Path("empty.md").touch()
    Path("quick.md").write_text("<!-- begin: make bench -->\n<!-- end: make bench -->\n")

    with pytest.raises(SystemExit) as ended:
        command.parsed(arguments)

    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the run would be lost at its end."""
    monkeypatch.chdir(tmp_path)
    Path("var").touch()

    with pytest.raises(SystemExit):
        command.parsed([])

    assert "var" in capsys.readouterr().err


def speed() -> Result:
    return Result([Target("speed", "≤", 1.0, Spread(0.5, 0.4, 0.6))])


@pytest.mark.parametrize("status", [1, 0], ids=["crashed", "found nothing"])
def test_a_run_with_a_part_that_failed_is_not_kept(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was kept and pasted before stays; what the others found is printed; the exit status says it."""

    def run(arguments: list[str]) -> int:
        is_broken = "uvloop" in arguments
        found = Result(missing={"a peer": "OSError: gone"}) if is_broken else speed()
        Path(arguments[arguments.index("--out") + 1]).write_text(json.dumps(found.as_dict()))
        return status if is_broken else 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run", run)
    page = Path("page.md")
    page.write_text("<!-- begin: make bench -->\nold\n<!-- end: make bench -->\n")

    assert command.main(["--page", "page.md"]) == 1

    told = capsys.readouterr()
    assert "| speed | ≤ 1 |" in told.out
    assert "failed: postgresql under uvloop" in told.err
    assert status or "found nothing (a peer: OSError: gone)" in told.err
    assert "old" in page.read_text()
    assert list(report.PLACE.iterdir()) == []


def test_nothing_to_report_of_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report of kept runs needs one."""
    monkeypatch.chdir(tmp_path)

    assert command.main(["--report-only"]) == 1
    assert "measure first" in capsys.readouterr().err


def started(program: str) -> subprocess.Popen[str]:
    """Another interpreter that runs `program`, in which `command` is the module.

    It takes interrupts, also where a shell that started this one in the background has it ignore them.
    """
    takes_interrupts = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{takes_interrupts}\nfrom benchmarks import __main__ as command\n{program}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_who_stops_the_run_stops_the_part_that_measures(number: signal.Signals) -> None:
    """One line, no traceback, and nobody who measures on."""
    part = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with started(
        f"command.in_a_process = lambda *_: command.run([sys.executable, '-c', {part!r}])\n"
        "sys.exit(command.stoppable(['--part', 'pools']))"
    ) as process:
        pid = int(line_of(process))
        process.send_signal(number)
        _, told = process.communicate(timeout=30)

    assert process.returncode == 128 + number
    assert told.strip() == f"Stopped by {number.name}: a run is kept when it has ended."
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_part_that_is_stopped_closes_what_it_has_opened(tmp_path: Path) -> None:
    """Pools and servers are left by their own ways out."""
    with started(
        "import asyncio\n"
        "async def wait(_):\n"
        "    try:\n"
        "        print('open', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "    finally:\n"
        "        print('closed', flush=True)\n"
        "command.PARTS['pools'] = wait\n"
        f"sys.exit(command.stoppable(['--part', 'pools', '--out', {str(tmp_path / 'found.json')!r}]))"
    ) as process:
        assert line_of(process) == "open"
        process.terminate()
        out, told = process.communicate(timeout=30)

    assert (out, told) == ("closed\n", "")
    assert process.returncode == 128 + signal.SIGINT
    assert list(tmp_path.iterdir()) == []
