"""Instruments that count what the package does, whatever the machine does besides."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import millpond

_KERNEL = str(Path(millpond.__file__).parent)
_TESTING = str(Path(millpond.__file__).parent / "testing")


def _is_counted(code: CodeType) -> bool:
    return code.co_filename.startswith(_KERNEL) and not code.co_filename.startswith(_TESTING)


class Counter:
    """Counts the bytecode instructions and the Python calls of the package while it is on."""

    def __init__(self) -> None:
        self.instructions = self.calls = 0

    if sys.version_info >= (3, 12):

        def _at_instruction(self, code: CodeType, _offset: int) -> Any:
            if not _is_counted(code):
                return sys.monitoring.DISABLE
            self.instructions += 1
            return None

        def _at_start(self, code: CodeType, _offset: int) -> Any:
            if not _is_counted(code):
                return sys.monitoring.DISABLE
            self.calls += 1
            return None

        def __enter__(self) -> Self:
            tool, events = sys.monitoring.PROFILER_ID, sys.monitoring.events
            sys.monitoring.use_tool_id(tool, "millpond tests")
            sys.monitoring.register_callback(tool, events.INSTRUCTION, self._at_instruction)
            sys.monitoring.register_callback(tool, events.PY_START, self._at_start)
            sys.monitoring.set_events(tool, events.INSTRUCTION | events.PY_START)
            return self

        def __exit__(self, *_: object) -> None:
            sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)
            sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)
            sys.monitoring.restart_events()

    else:

        def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
            if not _is_counted(frame.f_code):
                return None
            if event == "call":
                frame.f_trace_opcodes = True
                self.calls += 1
            elif event == "opcode":
                self.instructions += 1
            return self._trace

        def __enter__(self) -> Self:
            self._before = sys.gettrace()
            sys.settrace(self._trace)
            return self

        def __exit__(self, *_: object) -> None:
            sys.settrace(self._before)


class Allocations:
    """Counts the blocks asked of the allocator by the package, and by `user`, while it is on.

    That is by how much those in use grow from one instruction to the next.
    Of what lives no longer than one instruction nothing is seen, and what
    Python keeps ready for the next of its kind is no allocation; of floats
    it has all it keeps when this begins. Between a return and the next instruction others may run:
    what grows then is not counted.
    """

    def __init__(self, user: Callable[..., object]) -> None:
        self.found = 0
        self._user: CodeType = user.__code__  # type: ignore[attr-defined]
        self._before = sys.getallocatedblocks()  # after the last event; the number is one of them
        self._is_known = False

    def _provide_floats(self) -> None:
        for _ in [number / 2 for number in range(200)]:  # made together, they come back together
            pass

    def _is_counted(self, code: CodeType) -> bool:
        return code is self._user or _is_counted(code)

    def _note(self, more: int) -> None:
        if self._is_known and more > 0:
            self.found += more
        self._is_known = True

    if sys.version_info >= (3, 12):

        def _at_instruction(self, code: CodeType, offset: int) -> Any:
            passing = offset > 256  # the block of that very number
            more = sys.getallocatedblocks() - passing - self._before
            if not self._is_counted(code):
                return sys.monitoring.DISABLE
            self._note(more)
            self._before = sys.getallocatedblocks() - passing
            return None

        def _at_end(self, code: CodeType, _offset: int, _result: object) -> Any:
            if not self._is_counted(code):
                return sys.monitoring.DISABLE
            self._is_known = False
            return None

        def __enter__(self) -> Self:
            gc.disable()
            self._provide_floats()
            tool, events = sys.monitoring.PROFILER_ID, sys.monitoring.events
            sys.monitoring.use_tool_id(tool, "millpond tests")
            sys.monitoring.register_callback(tool, events.INSTRUCTION, self._at_instruction)
            sys.monitoring.register_callback(tool, events.PY_RETURN, self._at_end)
            sys.monitoring.register_callback(tool, events.PY_YIELD, self._at_end)
            sys.monitoring.set_events(tool, events.INSTRUCTION | events.PY_RETURN | events.PY_YIELD)
            return self

        def __exit__(self, *_: object) -> None:
            sys.monitoring.set_events(sys.monitoring.PROFILER_ID, 0)
            sys.monitoring.free_tool_id(sys.monitoring.PROFILER_ID)
            sys.monitoring.restart_events()
            gc.enable()

    else:

        def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
            more = sys.getallocatedblocks() - self._before
            if not self._is_counted(frame.f_code):
                return None
            if event == "opcode":
                self._note(more)
            elif event == "call":
                frame.f_trace_opcodes = True
                self._is_known = False  # a frame takes blocks only because it is traced
            elif event == "return":
                self._is_known = False
            self._before = sys.getallocatedblocks()
            return self._trace

        def __enter__(self) -> Self:
            gc.disable()
            self._provide_floats()
            self._traced_by = sys.gettrace()
            sys.settrace(self._trace)
            return self

        def __exit__(self, *_: object) -> None:
            sys.settrace(self._traced_by)
            gc.enable()
