"""Whoever guesses the admin token is slowed down; whoever has it is let in.

An address that has given ten wrong tokens within a minute has to wait a second
for the answer to each further one, and may wait for ten of them at once: ten
guesses a second. The right token is let in at once all the same, for behind one
address there may be many (a proxy, a cluster's gateway), and one of them with an
old token must not lock out the operator. Only while ten wrong ones are waiting,
which is an attack, is the right one sent away with them, if it is short: were it
not, the guesses beyond those ten would be answered at full speed.

A token of 32 characters or more that were drawn at random has 128 bits and
cannot be guessed at any speed (NIST SP 800-63B, 5.1.2.2, asks for no limit from
112 bits on). It is let in whatever else goes on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

_MOST_FAILURES: Final = 10
_WINDOW_S: Final = 60.0
"""After this many wrong tokens within so many seconds an address has to wait for each further answer."""
_HELD_S: Final = 1.0
_MOST_HELD: Final = 10
"""How long it waits (seconds), and how many of its requests may wait at once."""
_MOST_ADDRESSES: Final = 1000
_SHORTEST_UNGUESSABLE: Final = 32


def is_guessable(token: str) -> bool:
    """It is short enough to be found by trying, if somebody may try as fast as the service answers."""
    return len(token) < _SHORTEST_UNGUESSABLE


@dataclass(slots=True)
class Guesses:
    """Wrong tokens from one address.

    Attributes:
        at: when the latest came, on the clock of `time.monotonic`.
        held: how many wait for their answer.
    """

    at: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_FAILURES))
    held: int = 0

    @property
    def are_too_many_at_once(self) -> bool:
        """As many wrong ones wait as may: this is no mistake."""
        return self.held >= _MOST_HELD

    @property
    def retry_after(self) -> int:
        """Seconds after which a wrong token is answered at once again, at least 1."""
        return max(1, math.ceil(self.at[0] + _WINDOW_S - time.monotonic())) if self.at else 1

    async def failed(self) -> bool:
        """Note one more; True, after a wait, if there were too many of them."""
        now = time.monotonic()
        is_many = len(self.at) == _MOST_FAILURES and self.at[0] > now - _WINDOW_S
        self.at.append(now)
        if is_many and not self.are_too_many_at_once:
            self.held += 1
            try:
                await asyncio.sleep(_HELD_S)
            finally:
                self.held -= 1
        return is_many


class Guessing:
    """Wrong tokens by the address they came from, of IPv6 by the network: whoever has one has all of it."""

    def __init__(self) -> None:
        self._of: dict[str, Guesses] = {}

    def of(self, address: str) -> Guesses:
        """What came from there; whoever has been quiet for longest is forgotten when there are too many."""
        place = _place(address)
        found = self._of.pop(place, None) or Guesses()
        self._of[place] = found
        if len(self._of) > _MOST_ADDRESSES:
            del self._of[next(iter(self._of))]
        return found


def _place(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
