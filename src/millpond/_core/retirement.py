"""When a connection has served long enough, and how long it may be trusted. Pure decisions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from millpond._core.slot import SlotState
from millpond.events import CloseReason

if TYPE_CHECKING:
    from millpond._core.slot import Slot
    from millpond.settings import PoolSettings

UNCHECKED_S: Final = 60.0
"""`trusted_s` where no check is asked for (`validate_after_idle` None)."""


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


def is_worn(slot: Slot, settings: PoolSettings) -> bool:
    """Has it been lent as often as it may be?"""
    return settings.max_uses is not None and slot.uses >= settings.max_uses


def reason_to_retire(slot: Slot, now: float, generation: int, settings: PoolSettings) -> CloseReason | None:
    """Why a connection without a lease must go now, or None; asked at every return and lending."""
    if slot.doom is not None:
        return slot.doom
    if slot.generation != generation:
        return CloseReason.CLEARED
    if settings.max_uses is not None and is_worn(slot, settings):
        return CloseReason.USES
    if now >= slot.retire_at:
        return CloseReason.LIFETIME
    return None


def trusted_s(settings: PoolSettings) -> float:
    """Seconds for which the short way lends what it has put back; longer than that needs a closer look."""
    return UNCHECKED_S if settings.validate_after_idle is None else settings.validate_after_idle


def keep_until(slot: Slot, settings: PoolSettings) -> float:
    """Until when a clean return may put it back without a further question.

    So early that it is not too old yet when `trusted_s` have passed: who takes
    it from the shelf then needs to look at one instant only.
    """
    if slot.needs_reset or slot.is_new or slot.doom is not None:
        return -math.inf
    if settings.max_uses is not None and is_worn(slot, settings):
        return -math.inf
    return slot.retire_at - trusted_s(settings)


def trusted_from(slot: Slot, settings: PoolSettings) -> float:
    """From when on the short way may trust a connection that it has not put back itself, for `trusted_s`.

    So early that this ends before its age and its last proof of life call for a
    closer look, and that it is not taken for idle for a shorter time than it is.
    """
    if settings.max_uses is not None and is_worn(slot, settings):
        return -math.inf
    return min(slot.idle_since, slot.proved_at, slot.retire_at - trusted_s(settings))


def tune(slot: Slot, settings: PoolSettings) -> None:
    """Keep with a slot what follows from the settings: how long it may be lent, and how easily."""
    if slot.doom is None:
        slot.retire_at = retire_at(slot.opened_at, settings, slot.draw)
    slot.keep_until = keep_until(slot, settings)
    is_parked = slot.state is SlotState.IDLE and slot.doom is None
    slot.trust_from(trusted_from(slot, settings) if is_parked else -math.inf)


def idle_deadline(slot: Slot, settings: PoolSettings) -> float:
    """When a parked connection that is not needed for min_size has been idle for too long."""
    return math.inf if settings.idle_timeout is None else slot.idle_since + settings.idle_timeout


def ping_due_at(slot: Slot, settings: PoolSettings) -> float:
    """When a parked connection is to be pinged in the background."""
    if settings.health_check_interval is None:
        return math.inf
    return slot.proved_at + settings.health_check_interval
