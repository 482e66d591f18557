"""A deterministic asyncio event loop: virtual time, a seeded schedule, no real I/O.

Time passes only when nothing else can happen: then the clock jumps to the next
timer. The same program under the same seed takes the same steps, always. Two
things are outside its power: the iteration order of sets of objects hashed by
address (its own tasks and futures are numbered instead), and when the garbage
collector finds a cycle.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import logging
import math
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, TypeVarTuple

from millpond.testing.failures import (
    Deadlock,
    NotSimulated,
    StepLimit,
    TimeLimit,
    pending,
    told,
)
from millpond.testing.refusals import NoRealWorld
from millpond.testing.schedule import Policy, label_of, lane_of, policy_for

if TYPE_CHECKING:
    from contextvars import Context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

RESOLUTION: Final = 1e-9
"""Timers at most this far apart, seconds, fall due together: below it, floats only differ by rounding."""

_LEAST_HEAP_TO_PRUNE: Final = 64
_MAKES_COROUTINES: Final = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE

ExceptionHandler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

logger = logging.getLogger("millpond.testing")


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number in its loop, so that sets of tasks iterate alike in every run."""

    def __init__(self, coro: Any, *, loop: SimulatedLoop, **options: Any) -> None:
        self._number = loop._count()
        if options.get("name") is None:
            options["name"] = f"Task-{self._number}"
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose hash is its number in its loop."""

    def __init__(self, *, loop: SimulatedLoop) -> None:
        self._number = loop._count()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SimulatedLoop(NoRealWorld):
    """This runs asyncio programs in virtual time, in an order drawn from a seed.

    Args:
        seed: of the schedule; None: asyncio's own order. `schedule.py` says
            exactly what may be reordered and what never is.
        policy: decides the order instead of `seed`.
        start: what the clock shows first, seconds.
        max_steps: most callbacks to run; then `StepLimit`.
        max_time: the furthest the clock may go, seconds; then `TimeLimit`. None: no limit.
        trail: how many of the last steps to remember for error messages.

    Attributes:
        steps: callbacks run so far.
        after_step: called without arguments after every callback; what it raises ends the run.
        at_rest: called without arguments whenever nothing more can happen at this instant,
            before time passes; it may look but schedule nothing. What it raises ends the run.
        stalled_until: what the clock showed when the last `stall` ended; minus infinity: none yet.
        stalled_since: what it showed when that stall began.
        errors: what `call_exception_handler` was called with, unless a handler was set.
        trail: the last steps: number, time in seconds, task or function.
        random: a generator of its own for the world around the program; seeded with `seed`.
    """

    def __init__(
        self,
        seed: int | None = 0,
        *,
        policy: Policy | None = None,
        start: float = 0.0,
        max_steps: int | None = None,
        max_time: float | None = None,
        trail: int = 24,
    ) -> None:
        self.seed = seed
        self.policy: Policy = policy_for(seed) if policy is None else policy
        self.random = random.Random(f"world {seed}")
        self.max_steps = max_steps
        self.max_time = max_time
        self.steps = 0
        self.after_step: Callable[[], object] | None = None
        self.at_rest: Callable[[], object] | None = None
        self.stalled_until = self.stalled_since = -math.inf
        self.errors: list[dict[str, Any]] = []
        self.trail: deque[tuple[int, float, str]] = deque(maxlen=trail)
        self._now = start
        self._numbers = itertools.count(1)
        self._ready: deque[tuple[Hashable, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._cancelled_timers = 0
        self._quiet: deque[asyncio.Future[None]] = deque()
        self._at_step: dict[int, list[Callable[[], object]]] = {}
        # Weak and unordered: iterate it through sorted() only.
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self._task_factory: Any = None
        self._exception_handler: ExceptionHandler | None = None
        self._thread = threading.get_ident()
        self._is_running = self._is_closed = self._is_stopping = self._is_debug = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "running" if self._is_running else "idle"
        return (
            f"<SimulatedLoop {state} seed={self.seed} steps={self.steps} time={self._now:g} "
            f"ready={len(self._ready)} timers={len(self.pending_timers())}>"
        )

    # -- what a simulation adds ---------------------------------------------------------------

    def stall(self, seconds: float) -> None:
        """Let `seconds` pass inside the running callback, as in a blocked loop: nothing runs meanwhile."""
        if not (0 <= seconds < math.inf):
            raise ValueError(f"stall takes a finite number of seconds >= 0, got {seconds}")
        if self._now != self.stalled_until:  # two in a row are one
            self.stalled_since = self._now
        self._now += seconds
        self.stalled_until = self._now

    def at_step(self, step: int, call: Callable[[], object]) -> None:
        """Call `call` right before callback number `step` (from 1) runs; what it raises ends the run.

        Raises:
            ValueError: that callback has run already.
        """
        if step <= self.steps:
            raise ValueError(f"step {step} has passed, {self.steps} have been taken")
        self._at_step.setdefault(step, []).append(call)

    def forget_steps(self) -> None:
        """Call nothing that `at_step` was asked for."""
        self._at_step.clear()

    async def settle(self) -> None:
        """Wait until nothing else is ready, without letting time pass."""
        waiter = self.create_future()
        self._quiet.append(waiter)
        await waiter

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks made by this loop that still exist, done or not, oldest first."""
        return sorted(self._tasks, key=hash)

    def pending_tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that are not done, oldest first."""
        return [task for task in self.tasks() if not task.done()]

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are set and not cancelled, earliest first."""
        return [timer for _, _, timer in sorted(self._timers, key=_due) if not timer.cancelled()]

    # -- time ----------------------------------------------------------------------------------

    def time(self) -> float:
        """The virtual clock, seconds."""
        return self._now

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback` `delay` virtual seconds from now."""
        if delay is None:
            raise TypeError("call_later takes a number of seconds, got None")
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback` when the virtual clock shows `when` seconds."""
        self._check(callback, "call_at")
        if when is None:
            raise TypeError("call_at takes a time in seconds, got None")
        if math.isnan(when):
            raise ValueError("call_at takes a time in seconds, got nan")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, self._count(), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # asyncio.TimerHandle calls this from cancel(), once, also for a timer that has fired.
        self._cancelled_timers += 1
        if len(self._timers) >= _LEAST_HEAP_TO_PRUNE and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [
                entry for entry in self._timers if not entry[2].cancelled() and entry[2] is not handle
            ]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    # -- callbacks -----------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Run `callback` in the next iteration."""
        self._check(callback, "call_soon")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((lane_of(callback, args), handle))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """`call_soon`, from the loop's own thread only: another thread's timing cannot be replayed."""
        return self.call_soon(callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return SimulatedFuture(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """A task that runs `coro`; `name`, `context` and what the interpreter's own tasks take besides."""
        self._check_open()
        if self._task_factory is None:
            task: asyncio.Task[Any] = SimulatedTask(coro, loop=self, **options)
        else:
            name = options.pop("name", None)
            if options.get("context", ...) is None:
                del options["context"]
            task = self._task_factory(self, coro, **options)
            if name is not None and hasattr(task, "set_name"):
                task.set_name(name)
        self._tasks.add(task)
        return task

    def set_task_factory(self, factory: Any) -> None:
        """Make tasks with `factory(loop, coro, ...)`; None: the loop's own."""
        if factory is not None and not callable(factory):
            raise TypeError("a task factory is callable or None")
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        """What makes tasks; None: the loop's own."""
        return self._task_factory

    # -- running -------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """Run until `future` (or a task made of a coroutine) is done; return its result or raise its error.

        Raises:
            Deadlock: nothing can ever happen again, and it is not done.
            StepLimit: `max_steps` callbacks have run.
            TimeLimit: the next timer lies beyond `max_time`.
            RuntimeError: `stop()` was called first.
        """
        self._check_open()
        self._check_idle()
        is_own = not asyncio.isfuture(future)
        main: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        main.add_done_callback(self._main_is_done)
        try:
            self.run_forever()
        except BaseException:
            if is_own and main.done() and not main.cancelled():
                main.exception()  # the error that ends the run is the one to hear of
            raise
        finally:
            main.remove_done_callback(self._main_is_done)
        if not main.done():
            raise RuntimeError("the loop was stopped before the main task was done")
        return main.result()

    def run_forever(self) -> None:
        """Run until `stop()`.

        Raises:
            Deadlock: nothing can ever happen again.
        """
        self._check_open()
        self._check_idle()
        self._thread = threading.get_ident()
        hooks = sys.get_asyncgen_hooks()
        self._is_running = True
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=self._generator_began, finalizer=self._generator_was_dropped)
        try:
            while True:
                self._iterate()
                if self._is_stopping:
                    break
        finally:
            self._is_running = self._is_stopping = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def stop(self) -> None:
        """Stop after the current iteration."""
        self._is_stopping = True

    def is_running(self) -> bool:
        """True while callbacks are run."""
        return self._is_running

    def is_closed(self) -> bool:
        """True after `close()`."""
        return self._is_closed

    def close(self) -> None:
        """Drop everything that is scheduled; the loop cannot be used again."""
        if self._is_running:
            raise RuntimeError("a running loop cannot be closed")
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()
        self._quiet.clear()
        self._at_step.clear()

    def _iterate(self) -> None:
        """Run once what is ready; when nothing is, let time pass first."""
        if not self._ready and not self._is_stopping:
            self._wake_who_waits_for_quiet()
        if not self._ready and not self._is_stopping:
            self._pass_time()
        self._collect_due()
        batch = list(self._ready)
        self._ready.clear()
        todo = deque(batch[index] for index in self.policy.arrange([lane for lane, _ in batch]))
        try:
            while todo:
                _, handle = todo.popleft()
                if not handle.cancelled():
                    self._step(handle)
        except BaseException:
            self._ready.extendleft(reversed(todo))
            raise

    def _step(self, handle: asyncio.Handle) -> None:
        step = self.steps + 1
        if self.max_steps is not None and step > self.max_steps:
            raise StepLimit(
                f"{self.max_steps} steps taken at {self._now:g} s: an endless loop, or raise max_steps."
                f"{self._recent()}",
                pending(self.pending_tasks()),
            )
        for call in self._at_step.pop(step, ()):
            call()
        if handle.cancelled():
            return
        self.steps = step
        self.trail.append((step, self._now, label_of(handle._callback)))  # type: ignore[attr-defined]
        handle._run()
        if self.after_step is not None:
            self.after_step()

    def _wake_who_waits_for_quiet(self) -> None:
        while self._quiet and not self._ready:
            waiter = self._quiet.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _pass_time(self) -> None:
        """Jump to the next timer."""
        while self._timers and self._timers[0][2].cancelled():
            self._forget_first_timer()
        when = self._timers[0][0] if self._timers else math.inf
        if self.at_rest is not None and when > self._now + RESOLUTION:
            self.at_rest()
        if when == math.inf:
            raise Deadlock(
                f"nothing is ready and no timer is set at {self._now:g} s, so nothing can ever happen."
                f"{self._recent()}",
                pending(self.pending_tasks()),
            )
        if self.max_time is not None and when > self.max_time:
            raise TimeLimit(
                f"the next timer is at {when:g} s, beyond max_time={self.max_time:g} s.{self._recent()}",
                pending(self.pending_tasks()),
            )
        self._now = max(self._now, when)

    def _collect_due(self) -> None:
        """Move timers that are due to what is ready, by time; of equal ones as many as the policy says."""
        limit = self._now + RESOLUTION
        while self._timers and self._timers[0][0] <= limit:
            group = self._next_timers(min(limit, self._timers[0][0] + RESOLUTION))
            order = self.policy.arrange(range(len(group)))
            count = self.policy.together(len(group)) if group else 0
            for index in order[:count]:
                timer = group[index][2]
                self._now = max(self._now, timer.when())  # none of them fires early
                lane = lane_of(timer._callback, tuple(timer._args))  # type: ignore[attr-defined]
                self._ready.append((lane, timer))
            for index in order[count:]:
                heapq.heappush(self._timers, group[index])
            if count < len(group):
                break  # what is later must not overtake them

    def _next_timers(self, limit: float) -> list[tuple[float, int, asyncio.TimerHandle]]:
        """Take the timers up to `limit` seconds, but for cancelled ones, off the heap."""
        group = []
        while self._timers and self._timers[0][0] <= limit:
            entry = self._timers[0]
            self._forget_first_timer()
            if not entry[2].cancelled():
                group.append(entry)
        return group

    def _forget_first_timer(self) -> asyncio.TimerHandle:
        _, _, timer = heapq.heappop(self._timers)
        if timer.cancelled():
            self._cancelled_timers = max(0, self._cancelled_timers - 1)
        return timer

    def _main_is_done(self, future: asyncio.Future[Any]) -> None:
        self.stop()

    def _count(self) -> int:
        return next(self._numbers)

    def _recent(self) -> str:
        steps = ", ".join(f"{label} ({step} at {at:g} s)" for step, at, label in list(self.trail)[-5:])
        return f" Last steps: {steps}." if steps else ""

    # -- errors --------------------------------------------------------------------------------

    def set_exception_handler(self, handler: Any) -> None:
        """Call `handler(loop, context)` for errors nobody awaits; None: record them in `errors`."""
        if handler is not None and not callable(handler):
            raise TypeError("an exception handler is callable or None")
        self._exception_handler = handler

    def get_exception_handler(self) -> Any:
        """What is called for errors nobody awaits; None: they are recorded."""
        return self._exception_handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Record the error in `errors` and log it."""
        self.errors.append(context)
        logger.error("%s", told(context), exc_info=context.get("exception"))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell the handler; one that raises is itself an error to record."""
        if self._exception_handler is None:
            self.default_exception_handler(context)
            return
        try:
            self._exception_handler(self, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.default_exception_handler(
                {"message": "the exception handler itself raised", "exception": error, "context": context}
            )

    def get_debug(self) -> bool:
        """True when handles and futures remember where they were made."""
        return self._is_debug

    def set_debug(self, enabled: bool) -> None:
        """Let handles and futures remember where they were made."""
        self._is_debug = enabled

    # -- asynchronous generators and executors ---------------------------------------------------

    def _generator_began(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.add(generator)

    def _generator_was_dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.discard(generator)
        # A collector that runs in another thread, or after the end, has no loop to close it in.
        if not self._is_closed and threading.get_ident() == self._thread:
            self.call_soon(self._close_generator, generator)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        self.create_task(generator.aclose(), name="close a dropped generator")

    async def shutdown_asyncgens(self) -> None:
        """Close all asynchronous generators that were begun and not finished."""
        generators = list(self._generators)
        self._generators.clear()
        results = await asyncio.gather(*(each.aclose() for each in generators), return_exceptions=True)
        for generator, result in zip(generators, results, strict=True):
            if isinstance(result, Exception):
                self.call_exception_handler(
                    {"message": f"closing {generator!r} failed", "exception": result, "asyncgen": generator}
                )

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there is no executor."""

    # -- checks --------------------------------------------------------------------------------

    def _check(self, callback: object, method: str) -> None:
        self._check_open()
        if threading.get_ident() != self._thread:
            raise NotSimulated(
                method,
                "another thread called, and its timing cannot be replayed; stay in the loop's own thread",
            )
        if _is_coroutine(callback):
            raise TypeError(f"{method} takes a function, not a coroutine: use create_task")
        if not callable(callback):
            raise TypeError(f"{method} takes a function, got {callback!r}")

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("the simulated loop is closed")

    def _check_idle(self) -> None:
        if self._is_running:
            raise RuntimeError("the simulated loop runs already")
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("another event loop runs in this thread")


def _is_coroutine(callback: object) -> bool:
    """A coroutine, or a function that makes one; of what has code, the code tells."""
    code = getattr(callback, "__code__", None)
    if code is not None:
        return bool(code.co_flags & _MAKES_COROUTINES)
    return asyncio.iscoroutine(callback) or asyncio.iscoroutinefunction(callback)


def _due(entry: tuple[float, int, asyncio.TimerHandle]) -> tuple[float, int]:
    return entry[:2]
