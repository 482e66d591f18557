"""A fault is data: what it does, which guarantees it breaks, and the text it replaces."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

KERNEL: Final = Path("millpond") / "_core"
FUZZED: Final = frozenset({*range(1, 12), 15})
"""The guarantees that the fuzzer's auditor checks; 12 to 14 have tests of their own."""


class StaleFault(Exception):
    """The kernel has changed under a fault: its text is not there exactly once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that could be wrong with the kernel.

    Attributes:
        name: short, for the command line.
        does: the rest of the sentence "The kernel ...".
        breaks: the guarantees it breaks, by number; none: something else that is promised.
        file: in `_core`.
        find: occurs in the file exactly once.
        put: what stands there instead.
    """

    name: str
    does: str
    breaks: tuple[int, ...]
    file: str
    find: str
    put: str

    @property
    def is_for_the_fuzzer(self) -> bool:
        """Whether the fuzzer should see it."""
        return not FUZZED.isdisjoint(self.breaks)

    def spoiled(self, text: str) -> str:
        """The file's text with this fault in it.

        Raises:
            StaleFault: the text to replace is not there exactly once, or the fault changes nothing.
        """
        times = text.count(self.find)
        if times != 1:
            raise StaleFault(f"{self.name}: {self.find!r} is {times} times in {self.file}, must be once")
        if self.find == self.put:
            raise StaleFault(f"{self.name} changes nothing")
        return text.replace(self.find, self.put)

    def plant(self, root: Path) -> None:
        """Put this fault into the copy of the package below `root`."""
        path = root / KERNEL / self.file
        path.write_text(self.spoiled(path.read_text(encoding="utf-8")), encoding="utf-8")
