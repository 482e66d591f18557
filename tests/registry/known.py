"""What Millpond brings, as its messages list it: so that a new driver changes no test."""

from typing import Final

from millpond.drivers.kinds import _OWN

KINDS: Final = tuple(sorted(_OWN))
KNOWN_KINDS: Final = f"known: {', '.join(KINDS)}"
KNOWN_SCHEMES: Final = f"known: {', '.join(sorted(each for own in _OWN.values() for each in own.schemes))}"
