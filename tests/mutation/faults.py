"""The list of faults."""

from typing import Final

from tests.mutation.backends import BACKENDS
from tests.mutation.borrowing import BORROWING
from tests.mutation.endings import ENDINGS

FAULTS: Final = (*BORROWING, *BACKENDS, *ENDINGS)
