"""The contract between a driver and the pool, as tests that run on your driver.

    from millpond.testing.contract import Backend, DriverContract, SessionContract

    class Lines(Backend):                       # how to ask it, how to be slow, who is there
        ...

    class TestLines(DriverContract, SessionContract):
        def setup_method(self):                 # or an autouse fixture that sets self.backend
            self.backend = Lines()

Derive from the parts that apply:

    DriverContract   every driver: open, ask, cancel, end, and leave nothing behind
    SessionContract  sessions that have transactions and settings
    RemoteContract   a server that may hang up, refuse, or be away; secrets; forks
    SharedContract   several borrowers on one connection
    KindContract     a class that is registered for configuration files

There is no test that skips: a part either applies or is left out. Tests are plain methods, each with an
event loop of its own: they run under pytest with any plugin for asyncio or none, and under unittest
(derive from `unittest.TestCase` as well). Nothing here imports pytest. A failure is a `ContractBroken`:
which promise, what was seen, what to change.

docs/writing-a-driver.md has a driver and its contract from beginning to end.
"""

from __future__ import annotations

from millpond.testing.contract.backend import LEVELS, Backend, Knows, until
from millpond.testing.contract.base import Contract
from millpond.testing.contract.cancelling import Awaits, Moment, cancelled_at_every_await
from millpond.testing.contract.every import DriverContract, until_quiet
from millpond.testing.contract.kinds import KindContract
from millpond.testing.contract.promises import ContractBroken, Promise
from millpond.testing.contract.remote import RemoteContract
from millpond.testing.contract.sessions import SessionContract
from millpond.testing.contract.shared import SharedContract

__all__ = [
    "LEVELS",
    "Awaits",
    "Backend",
    "Contract",
    "ContractBroken",
    "DriverContract",
    "KindContract",
    "Knows",
    "Moment",
    "Promise",
    "RemoteContract",
    "SessionContract",
    "SharedContract",
    "cancelled_at_every_await",
    "until",
    "until_quiet",
]
