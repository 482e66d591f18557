"""Who is told what happened: those who watch for a condition, and listeners; once the books are closed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from millpond._core.alarm import STALLED_S
from millpond._core.calls import FAULTS
from millpond._core.opening import HEDGE_S
from millpond.events import CloseReason, Event, EventKind, Listener

if TYPE_CHECKING:
    from millpond._core.lease import Hold
    from millpond._core.pool import ConnectionPool
    from millpond._core.slot import Slot

logger = logging.getLogger("millpond")
_new_event: Final = tuple.__new__  # a third of what calling Event costs, which looks for defaults


class Announcer:
    """This tells the watchers and listeners of one pool."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool
        self.listener_errors = 0
        self._listeners: tuple[Listener, ...] = ()
        self._watchers: dict[int, asyncio.Future[None]] = {}
        self._outbox: deque[Event] = deque()
        self._sequence = 0
        self._telling = False

    def reborn(self) -> Announcer:
        """What the pool has in the child of a fork: the same listeners, nobody who watches."""
        child = Announcer(self._pool)
        child._listeners = self._listeners
        child._sequence = self._sequence
        return child

    @property
    def is_watched(self) -> bool:
        """True while somebody waits for a condition: then no lease may pass unnoticed."""
        return bool(self._watchers)

    @property
    def is_heard(self) -> bool:
        """True while somebody listens: then every lease is to be told of."""
        return bool(self._listeners)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; returns a function that ends this."""
        self._listeners = (*self._listeners, listener)
        self._pool._attend()

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)
            self._pool._attend()

        return remove

    async def until(self, holds: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until `holds()`, asked after every change; False when the deadline came first."""
        pool = self._pool
        assert pool._loop is not None  # noqa: S101 - callers have entered
        while not holds():
            now = pool._now()
            if deadline is not None and now - deadline > STALLED_S:
                # The loop stood still: what this waits for may be a few turns away. Ask again.
                deadline = now + HEDGE_S
            elif deadline is not None and now >= deadline:
                return False
            changed: asyncio.Future[None] = pool._loop.create_future()
            self._watchers[id(changed)] = changed
            pool._refresh_plain()
            timer = (
                None
                if deadline is None
                else pool._loop.call_at(deadline, _resolve, changed, context=Context())
            )
            try:
                await changed
            finally:
                self._watchers.pop(id(changed), None)
                if timer is not None:
                    timer.cancel()
                pool._refresh_plain()
        return True

    def tell(
        self, kind: EventKind, *, slot: Slot | None = None, hold: Hold[Any] | None = None,
        reason: CloseReason | str | None = None, seconds: float = 0.0, detail: str = "",
    ) -> None:  # fmt: skip
        """Note an event, to be told by `settle`; without listeners there is none."""
        pool = self._pool
        if not self._listeners:
            return
        self._sequence += 1
        number = 0 if slot is None else slot.number
        lease = 0 if hold is None else hold.number
        generation = pool._ledger.generation
        event = Event(kind, self._sequence, pool.name, generation, number, lease, reason, seconds, detail)
        self._outbox.append(event)

    def tell_at_once(self, kind: EventKind, slot: Slot, hold: Hold[Any], seconds: float) -> None:
        """Do what `tell` and `settle` do, for a lease begun or ended in passing: nothing else has changed."""
        if not self._listeners:
            return
        if self._telling or self._outbox:
            self.tell(kind, slot=slot, hold=hold, seconds=seconds)
            self.settle()
            return
        pool = self._pool
        self._sequence += 1
        facts = (
            kind, self._sequence, pool.name, pool._ledger.generation, slot.number, hold.number, None,
            seconds, "",
        )  # fmt: skip
        self._telling = True
        try:
            self._deliver(_new_event(Event, facts))
        finally:
            self._telling = False
        if self._outbox:
            self.settle()

    def _deliver(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except FAULTS:
                self.listener_errors += 1
                logger.exception("%s: a listener raised on %s", self._pool.name, event.kind.value)

    def settle(self) -> None:
        """The books are closed: wake who watches, then tell who listens."""
        pool = self._pool
        if self._watchers:
            for watcher in list(self._watchers.values()):
                _resolve(watcher)
        pool._refresh_plain()
        if not self._outbox or self._telling:
            return
        self._telling = True
        try:
            while self._outbox:
                self._deliver(self._outbox.popleft())
        finally:
            self._telling = False


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
