"""Which moves of the kernel's state machines are made: every assignment of a state is recorded."""

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

from millpond import ConnectionPool
from millpond._core import breaker, life, slot, waiters

Move = tuple[enum.Enum, enum.Enum]
Table = Mapping[Any, frozenset[Any]]

MACHINES: Final[dict[str, tuple[type, Table]]] = {
    "slot": (slot.Slot, slot.LEGAL),
    "waiter": (waiters.Waiter, waiters.LEGAL),
    "breaker": (breaker.Breaker, breaker.LEGAL),
    "pool": (ConnectionPool, life.LEGAL),
}
"""The kernel's state machines: whose `state` it is, and the moves that are legal."""


def legal_moves(machine: str) -> set[Move]:
    """Every move of the table."""
    return {(old, new) for old, news in MACHINES[machine][1].items() for new in news}


@dataclass
class Taken:
    """The moves that were made, by machine."""

    moves: dict[str, Counter[Move]] = field(
        default_factory=lambda: {machine: Counter() for machine in MACHINES}
    )

    def missing(self) -> list[str]:
        """Legal moves that nobody made."""
        return [
            f"{machine} {old.value} -> {new.value}"
            for machine in MACHINES
            for old, new in sorted(legal_moves(machine) - set(self.moves[machine]), key=str)
        ]

    def illegal(self) -> list[str]:
        """Moves that no table allows."""
        return [
            f"{machine} {old.value} -> {new.value}"
            for machine in MACHINES
            for old, new in sorted(set(self.moves[machine]) - legal_moves(machine), key=str)
        ]


class Recorded:
    """The attribute `state` of a class: it is kept where it was, and each change is counted."""

    def __init__(self, owner: type, taken: Counter[Move]) -> None:
        self.inner = owner.__dict__.get("state")  # a slot's descriptor, or None: it is in the instance
        self.taken = taken

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.inner is not None:
            return self.inner.__get__(instance, owner)
        return instance.__dict__["state"]

    def __set__(self, instance: Any, state: enum.Enum) -> None:
        try:
            old = self.__get__(instance)
        except (AttributeError, KeyError):
            old = state  # the first of all
        if old is not state:
            self.taken[old, state] += 1
        if self.inner is not None:
            self.inner.__set__(instance, state)
        else:
            instance.__dict__["state"] = state


@contextmanager
def recording() -> Iterator[Taken]:
    """Record every move while this is entered."""
    taken = Taken()
    with ExitStack() as stack:
        for machine, (owner, _) in MACHINES.items():
            recorded = Recorded(owner, taken.moves[machine])
            stack.enter_context(mock.patch.object(owner, "state", recorded, create=True))
        yield taken
