"""Which exclusive queues a channel may have left on its connection. Pure: no I/O, no await, no clock."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from aiormq.exceptions import ChannelClosed
from pamqp import commands as spec

_SERVERS_NAMES: Final = "amq."
"""What names begin with that only the server gives."""


class Claims:
    """The exclusive queues that one channel has declared.

    A queue counts from before its declaration is sent: who is cancelled does not hear whether it is there.

    Attributes:
        named: the declarations, by the queue's name.
        nameless: how many have a name that only the server knows.
    """

    def __init__(self) -> None:
        self.named: dict[str, spec.Queue.Declare] = {}
        self.nameless = 0

    def __bool__(self) -> bool:
        """There may be one."""
        return bool(self.named or self.nameless)

    @contextmanager
    def asking(self, frame: spec.Queue.Declare) -> Iterator[None]:
        """The server is asked for one; what it refuses is not there."""
        name = frame.queue or ""
        was_known = name in self.named
        if name:
            self.named[name] = frame
        else:
            self.nameless += 1
        try:
            yield
        except ChannelClosed:
            if not name:
                self.nameless -= 1
            elif not was_known:
                self.named.pop(name, None)
            raise

    def hear(self, question: Any, answer: Any) -> None:
        """The server has answered."""
        match answer:
            case spec.Queue.DeclareOk() if not question.queue:
                self.nameless -= 1
                self.named[answer.queue or ""] = question
            case spec.Queue.DeleteOk():
                self.named.pop(question.queue, None)


def is_claim(frame: Any) -> bool:
    """The frame declares an exclusive queue."""
    return isinstance(frame, spec.Queue.Declare) and bool(frame.exclusive) and not frame.passive


def deletion(claims: Mapping[str, spec.Queue.Declare]) -> Iterator[Any]:
    """What to send, one after the other, so that these queues are gone, and no queue of anybody else's.

    A queue may have gone by itself since, and another client may have one of that name: the declaration,
    said again, is refused then. Of the server's own names there is never a second one.
    """
    for name, declared in claims.items():
        if not name.startswith(_SERVERS_NAMES):
            again = copy.copy(declared)
            again.nowait = False
            yield again
        yield spec.Queue.Delete(queue=name)
