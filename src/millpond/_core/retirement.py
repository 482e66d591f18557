"""When a connection has served long enough, and how long it may be trusted. Pure decisions."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from millpond._core.slot import SlotState
from millpond.events import CloseReason

if TYPE_CHECKING:
    from millpond._core.slot import Slot
    from millpond.settings import PoolSettings


def retire_at(opened_at: float, settings: PoolSettings, draw: float) -> float:
    """The instant from which a connection is not lent again because of its age.

    The lifetime is max_lifetime * (1 - lifetime_jitter * draw), so that
    connections opened together do not end together.

    Args:
        opened_at: when it was opened.
        settings: `max_lifetime` None means never.
        draw: a number from [0, 1).
    """
    if settings.max_lifetime is None:
        return math.inf
    return opened_at + settings.max_lifetime * (1.0 - settings.lifetime_jitter * draw)


def fresh_until(slot: Slot, settings: PoolSettings) -> float:
    """Until when a parked connection may be lent unchecked: its age and its last proof of life decide."""
    if settings.validate_after_idle is None:
        return slot.retire_at
    return min(slot.retire_at, slot.proved_at + settings.validate_after_idle)


def reason_to_retire(slot: Slot, now: float, generation: int, settings: PoolSettings) -> CloseReason | None:
    """Why a connection without a lease must go now, or None; asked at every return and lending."""
    if slot.doom is not None:
        return slot.doom
    if slot.generation != generation:
        return CloseReason.CLEARED
    if settings.max_uses is not None and slot.uses >= settings.max_uses:
        return CloseReason.USES
    if now >= slot.retire_at:
        return CloseReason.LIFETIME
    return None


def plain_uses(slot: Slot, settings: PoolSettings) -> int:
    """Below so many uses a returned connection may go back to the shelf without a further question."""
    if slot.needs_reset:
        return 0
    return sys.maxsize if settings.max_uses is None else settings.max_uses


def tune(slot: Slot, settings: PoolSettings) -> None:
    """Keep with a slot what follows from the settings: how long and how often it may be lent."""
    slot.plain_uses = plain_uses(slot, settings)
    if slot.doom is None:
        slot.retire_at = retire_at(slot.opened_at, settings, slot.draw)
        if slot.state is SlotState.IDLE:
            slot.fresh_until = fresh_until(slot, settings)


def idle_deadline(slot: Slot, settings: PoolSettings) -> float:
    """When a parked connection that is not needed for min_size has been idle for too long."""
    return math.inf if settings.idle_timeout is None else slot.idle_since + settings.idle_timeout


def ping_due_at(slot: Slot, settings: PoolSettings) -> float:
    """When a parked connection is to be pinged in the background."""
    if settings.health_check_interval is None:
        return math.inf
    return slot.proved_at + settings.health_check_interval
