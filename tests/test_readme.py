"""The README's example runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_library_example_runs(tmp_path: Path) -> None:
    """Copied from the README into an empty folder, it prints the pool's status."""
    example = re.search(r"```python\n(import asyncio.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example[1]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "'name': 'sqlite'" in done.stdout
    assert (tmp_path / "var" / "readme.db").exists()
