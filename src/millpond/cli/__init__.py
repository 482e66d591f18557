"""The command `millpond`.

Exit status: 0, all well; 1, the files are right but a backend, or the port,
cannot be had; 2, something must be changed: a file, the call, what is
installed.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final, NoReturn

from millpond.errors import MissingExtra

OK: Final = 0
NOT_THERE: Final = 1
TO_BE_CHANGED: Final = 2
"""Exit status when trying again without changing a file, or the call, cannot help."""


def main() -> NoReturn:
    """Run the command that the process's arguments name, and exit."""
    for module in ("typer", "pydantic", "fastapi", "uvicorn"):
        if find_spec(module) is None:
            missing = MissingExtra("cli", needed_for="the command millpond", module=module)
            print(f"millpond: {missing}", file=sys.stderr)
            sys.exit(TO_BE_CHANGED)

    from millpond.cli.commands import run

    sys.exit(run(sys.argv[1:]))
