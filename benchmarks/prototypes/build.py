"""Builds the prototypes in a directory, with compilers installed into an environment of their own there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

import millpond

HERE: Final = Path(__file__).parent
COMPILER: Final = shlex.split(sysconfig.get_config_var("CC") or "cc")
SUFFIX: Final[str] = sysconfig.get_config_var("EXT_SUFFIX")
SOURCE: Final = "short_way"
_NATIVE: Final = """from mypy_extensions import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class Place:"""


def run(command: Sequence[object], place: Path, **environment: str) -> str:
    """Run a compiler in `place`; answers what it printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=place,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment} if environment else None,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def c_extension(place: Path) -> ModuleType:
    """`_short_way.c`, built in `place`; takes nothing but a C compiler and this interpreter's headers."""
    target = place / f"_short_way{SUFFIX}"
    include = sysconfig.get_paths()["include"]
    options = ["-O3", "-fPIC", "-shared", "-DNDEBUG", "-fno-strict-aliasing", f"-I{include}"]
    run([*COMPILER, *options, HERE / "_short_way.c", "-o", target], place)
    return loaded("_short_way", target)


class Workshop:
    """Compilers for this interpreter, in `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        home = place / "compilers"
        venv.create(home, with_pip=True)
        self.programs = home / "bin"
        self.packages = next(home.glob("lib/python3.*/site-packages"))
        pip = [self.programs / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        run([*pip, "--require-hashes", "-r", HERE / "requirements.txt"], place)

    def versions(self) -> str:
        """Names and versions of the compilers."""
        lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
        pins = dict(re.findall(r"^([a-z-]+)==([0-9.]+)", line)[0] for line in lines if "==" in line)
        said = run([*COMPILER, "--version"], self.place).splitlines()[0]
        return f"{said}; Cython {pins['cython']}, mypyc {pins['mypy']}"

    def interpreted(self) -> ModuleType:
        """`short_way.py`, not compiled."""
        return loaded(SOURCE, HERE / f"{SOURCE}.py")

    def cython(self, *, is_declared: bool) -> ModuleType:
        """`short_way.py` through Cython: plain classes, or with their fields declared."""
        place = self._copied("cython-declared" if is_declared else "cython")
        if is_declared:
            shutil.copy(HERE / f"{SOURCE}.pxd", place)
        run([self.programs / "cythonize", "-q", "-i", "-3", f"{SOURCE}.py"], place)
        return loaded(SOURCE, place / f"{SOURCE}{SUFFIX}")

    def mypyc(self) -> ModuleType:
        """`short_way.py` through mypyc."""
        place = self._copied("mypyc")
        file = place / f"{SOURCE}.py"
        text = file.read_text(encoding="utf-8")
        if text.count("class Place:") != 1:
            raise RuntimeError("short_way.py no longer has one class Place")
        # Cython would refuse this decorator.
        file.write_text(text.replace("class Place:", _NATIVE), encoding="utf-8")
        sources = Path(millpond.__file__).parents[1]
        command = [self.programs / "mypyc", "--follow-imports=skip", "--ignore-missing-imports", file.name]
        run(command, place, MYPYPATH=str(sources))
        sys.path.append(str(self.packages))  # for the decorator
        try:
            return loaded(SOURCE, place / f"{SOURCE}{SUFFIX}")
        finally:
            sys.path.remove(str(self.packages))

    def _copied(self, name: str) -> Path:
        place = self.place / name
        place.mkdir()
        shutil.copy(HERE / f"{SOURCE}.py", place)
        return place


def loaded(name: str, file: Path) -> ModuleType:
    """The module in `file`; others of that name may be there already."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
