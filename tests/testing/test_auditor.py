"""The auditor is audited: each of its checks notices the kernel, or the books, that it is there for."""

import asyncio

import pytest

from millpond._core.waiters import WaitQueue
from millpond.testing import AuditFailure, guarantees
from tests.kernel.worlds import World, in_world
from tests.testing.broken_kernels import AT_THE_END, DAMAGES, Damage, failures_in, use, waiters


@pytest.mark.parametrize("sentence", DAMAGES)
def test_what_breaks_a_guarantee_is_noticed(sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each story does one thing wrong, and the check that is there for it says so."""
    monkeypatch.setattr(WaitQueue, "join", WaitQueue.join)  # a story replaces it
    numbers = {check.sentence: check.guarantee for check, _ in guarantees.everything()}

    found = {failure.sentence: failure for failure in failures_in(DAMAGES[sentence])}

    assert sentence in found
    assert found[sentence].guarantee == numbers.get(sentence, found[sentence].guarantee)
    assert f"guarantee {found[sentence].guarantee} (" in str(found[sentence])


def test_every_check_has_a_story_that_breaks_it() -> None:
    """A check that nothing can trip would prove nothing."""
    sentences = {check.sentence for check, _ in guarantees.everything()}

    assert sentences | set(AT_THE_END) == set(DAMAGES)


def test_every_guarantee_that_can_be_simulated_is_checked() -> None:
    """1 to 11, and 15."""
    assert {check.guarantee for check, _ in guarantees.everything()} == set(guarantees.TITLES)


def test_a_failure_says_what_when_and_how_to_repeat_it() -> None:
    """The guarantee, the sentence, the time, the step and the seed."""
    caught: list[AuditFailure] = []

    async def story(world: World) -> None:
        await world.borrow()
        world.pool._ledger.opened += 1
        with pytest.raises(AuditFailure) as raised:
            world.auditor.after_step()
        caught.append(raised.value)
        world.pool._ledger.opened -= 1

    in_world(story, seed=3)
    (failure,) = caught
    assert (failure.guarantee, failure.seed) == (11, 3)
    assert failure.at > 0
    assert failure.step > 0
    assert "the books balance" in str(failure)
    assert "seed 3" in str(failure)


def test_a_sound_kernel_trips_nothing() -> None:
    """All that a strict program may do, done well."""

    async def story(world: World) -> None:
        await use(world, 0.1)
        tasks = await waiters(world, 3)
        world.auditor.clears(world.pool)
        world.pool.clear()
        leak = asyncio.create_task(world.pool.lease())  # type: ignore[arg-type]
        world.auditor.leaks(leak)
        lease = await leak
        with world.backend.using(lease.connection):
            await asyncio.sleep(1.0)
        lease.release()
        tasks[0].cancel()
        world.auditor.cancels(tasks[0])
        await asyncio.gather(*tasks, return_exceptions=True)
        await world.pool.close()
        world.auditor.finish()

    assert failures_in(Damage(story, {"max_size": 2}, None)) == []
