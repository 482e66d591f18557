"""The contract can fail: a driver that breaks a promise is told which, what was seen, and what to change."""

import gc
import io
import re
import subprocess
import sys
import threading
import traceback
import unittest
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from line_server import LineServer
from millpond_lines import LinesDriver
from test_lines import Lines

from millpond.driver import Verdict
from millpond.testing.contract import (
    Contract,
    ContractBroken,
    DriverContract,
    KindContract,
    Promise,
    RemoteContract,
    SessionContract,
    SharedContract,
)
from tests.testing import broken_drivers as broken


@pytest.fixture
def server() -> Iterator[LineServer]:
    """One for each: what a broken driver leaves there is nobody else's."""
    with LineServer(password="a-password") as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """What there was before these tests need not be searched after each of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def clean_up_after(failure: BaseException) -> None:
    """Collect what the broken driver has left, or a later test would be blamed for it."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__cause__ or failure.__context__
    gc.collect()


class Planted(Lines):
    """The example's backend, with a driver that is not quite the example's."""

    after_cancel = MappingProxyType({})

    def __init__(self, server: LineServer, driver: type[LinesDriver]) -> None:
        super().__init__(server)
        self._driver = driver

    def driver(self, **options: Any) -> LinesDriver:
        return self._driver(**{**self.options, **options})


class Every(DriverContract, SessionContract, RemoteContract, KindContract, SharedContract):
    """All there is to promise, with less patience than a real server needs, more than any pause."""

    patience = 1.0


# By promise: the driver that breaks it, the test that finds it, and what that has seen.
FAULTS = {
    Promise.PROTOCOL: [
        (broken.IsPermanentIsAsync, "it_has_every_part_of_the_protocol", "is_permanent() is async"),
        (broken.HasNoReset, "it_has_every_part_of_the_protocol", "HasNoReset lacks reset"),
    ],
    Promise.CONNECT: [
        (broken.GivesOneConnectionToAll, "every_connect_makes_another_connection", "the same object"),
        (broken.ConnectHangs, "a_fresh_connection_is_open_and_answers", "connect() had not ended"),
    ],
    Promise.NOT_BLOCKING: [
        (broken.ConnectBlocks, "no_call_holds_up_the_loop", "connect() held it up"),
    ],
    Promise.CANCELLED: [
        (broken.ConnectSwallowsCancellation, "a_cancelled_connect_leaves_nothing", "returned as if"),
        (
            broken.PingTurnsCancellationIntoAnError, "a_cancelled_ping_reset_or_close_can_be_terminated",
            "ping(), cancelled while waiting at its await 1, raised ConnectionError",
        ),
        (
            broken.CancelledResetTakesItsTime, "a_cancelled_ping_reset_or_close_can_be_terminated",
            "reset(), cancelled while waiting at its await 1, had not ended after 1 s",
        ),
    ],
    Promise.HALF_MADE: [
        (broken.CancelledConnectLeaksItsSocket, "a_cancelled_connect_leaves_nothing", "nobody has closed"),
        (broken.FailedConnectLeaksItsSocket, "a_failed_connect_leaves_nothing_and_says_why", "failed"),
    ],
    Promise.CLOSE: [
        (broken.CloseHangs, "a_polite_close_ends_the_session", "close() had not ended after 1 s"),
        (broken.CloseForgets, "a_polite_close_ends_the_session", "1 sessions after close(), not 0"),
        (broken.CloseHangsTheSecondTime, "a_polite_close_ends_the_session", "close() after close()"),
    ],
    Promise.TERMINATE_AT_ONCE: [
        (broken.TerminateWaits, "terminate_does_not_wait_for_a_request", "it took "),
    ],
    Promise.TERMINATE_QUIETLY: [
        (
            broken.TerminateRaisesTheSecondTime, "terminate_ends_the_session_and_may_be_repeated",
            "the second time it raised RuntimeError: already closed",
        ),
        (
            broken.TerminateNeedsALoop, "terminate_after_the_loop_was_closed",
            "on a closed event loop it raised RuntimeError",
        ),
    ],
    Promise.TERMINATE_ENDS: [
        (
            broken.TerminateOnlyMarks, "terminate_ends_the_session_and_may_be_repeated",
            "sees 1 sessions after terminate()",
        ),
        (
            broken.TerminateOnlyMarks, "terminate_does_not_wait_for_a_request",
            "the request that was under way is still waiting",
        ),
    ],
    Promise.PING: [
        (broken.PingLies, "a_lost_connection_is_discarded", "terminated connection returned as if"),
        (
            broken.PingLies, "a_connection_that_the_backend_ended_is_not_lent_again",
            "after the backend hung up returned as if all were well",
        ),
        (broken.PingAlwaysFails, "a_fresh_connection_is_open_and_answers", "raised ConnectionError: not a"),
    ],
    Promise.RESET: [
        (broken.ResetHidesItsErrors, "a_lost_connection_is_discarded", "terminated connection returned"),
        (broken.ResetHidesItsErrors, "resetting_what_is_lost_in_a_transaction_fails", "as if all were"),
        (broken.ResetWorksOnce, "a_connection_can_be_reset_again_and_again", "raised RuntimeError"),
    ],
    Promise.CLEAN: [
        (
            broken.FullResetOnlyRollsBack,
            "a_pool_hands_on_what_is_clean_to_its_reset_level",
            "in a pool: 'something', after connecting: ''",
        ),
        (
            broken.FullResetOnlyRollsBack, "a_full_reset_leaves_nothing_of_the_last_borrower",
            "after the first lease: 'something', after connecting: ''",
        ),
    ],
    Promise.TRANSACTION: [
        (
            broken.LevelNoneKeepsATransaction,
            "a_pool_hands_on_what_is_clean_to_its_reset_level",
            "in a pool with reset 'none' the next borrower sees 1 rows",
        ),
        (broken.ResetLeavesTheTransaction, "a_reset_rolls_back", "1 rows that nobody committed"),
        (
            broken.LevelNoneKeepsATransaction, "an_open_transaction_never_reaches_the_next_borrower",
            "after a lease that ended with None at level none the next borrower sees 1 rows",
        ),
    ],
    Promise.ANSWERS: [
        (
            broken.KeepsAfterACancelledRequest, "a_cancelled_request_is_never_passed_on",
            "a question after a cancelled request at level none had not ended",
        ),
        # In the storm, or by the question after it: which of the two depends on when answers arrive.
        (broken.KeepsAfterACancelledRequest, "a_storm_of_cancellations_spoils_no_answer", " got "),
        (
            broken.KeepsAfterACancelledRequest,
            "cancelled_borrowers_of_a_pool_never_spoil_the_next_ones_answer",
            "got the answer",
        ),
    ],
    Promise.VERDICT: [
        (
            broken.HasNoVerdict, "the_verdict_after_a_question_is_the_one_that_was_written_down",
            "after a question at level none it said None",
        ),
    ],
    Promise.OWN_ERROR: [
        (
            broken.CondemnsForEveryError, "an_error_of_the_borrowers_own_condemns_nothing",
            "Verdict.DISCARD after a ValueError",
        ),
        (broken.CondemnsForEveryError, "a_request_that_was_refused_condemns_nothing", "what is NONSENSE"),
    ],
    Promise.LOST: [
        (broken.KeepsTheLost, "a_lost_connection_is_discarded", "after None at level none it said"),
        (
            broken.KeepsAfterConnectionErrors, "the_error_of_a_lost_connection_condemns_it",
            "has hung up it said",
        ),
    ],
    Promise.KNOWN_CLOSED: [
        (broken.NeverKnowsThatItIsClosed, "a_polite_close_ends_the_session", "after close()"),
        (
            broken.KnowsOnlyItsOwnEnds, "a_connection_that_the_backend_ended_is_not_lent_again",
            "is_closed() is False after the backend hung up",
        ),
    ],
    Promise.PERMANENT: [
        (
            broken.ThinksNothingPermanent, "a_failed_connect_leaves_nothing_and_says_why",
            "is_permanent() is False for Refused: there is no database no-such-place",
        ),
        (broken.ThinksRefusalPermanent, "what_may_pass_is_not_permanent", "is True for TimeoutError"),
        (
            broken.ThinksARefusedConnectionPermanent, "who_does_not_answer_may_answer_later",
            "is_permanent() is True for ConnectionRefusedError",
        ),
    ],
    Promise.SECRET: [
        (broken.RepeatsItsPassword, "a_secret_that_the_backend_refuses_stays_unsaid", "connect() holds it"),
        (broken.ShowsItsPassword, "a_secret_that_the_backend_refuses_stays_unsaid", "repr(driver) holds it"),
    ],
    Promise.RESIDUE: [
        (broken.LeavesATask, "a_fresh_connection_is_open_and_answers", "still run: heartbeat"),
        (broken.LeavesAThread, "a_fresh_connection_is_open_and_answers", "thread 'reader'"),
        (broken.LeavesASocket, "a_fresh_connection_is_open_and_answers", "2 sockets"),
    ],
    Promise.QUIET: [
        (broken.DropsATaskThatFails, "a_fresh_connection_is_open_and_answers", "LookupError: no such thing"),
    ],
    Promise.FORK: [
        (broken.NamesNoDescriptor, "the_child_of_a_fork_harms_no_session", "names none"),
        (broken.NamesAStaleDescriptor, "the_descriptors_of_a_connection_are_its_own", "still names"),
    ],
    Promise.BOOKS: [
        (broken.KeepsASpare, "a_fresh_connection_is_open_and_answers", "2 sessions after one connect()"),
    ],
    Promise.SHARED: [
        (LinesDriver, "borrowers_of_one_connection_get_their_own_answers", "raised RuntimeError"),
        (LinesDriver, "one_that_is_cancelled_harms_no_other", "it said Verdict.DISCARD"),
    ],
    Promise.CONFIGURED: [
        (broken.ConfiguresItself, "configuring_changes_nothing_on_the_original", "was changed"),
    ],
    Promise.KIND: [
        (broken.TakesAnyOption, "an_unknown_option_is_refused", "'no_such_option' is not refused"),
        (broken.HasPositionalOptions, "its_options_are_a_schema", "option 'host' is not keyword-only"),
        (LinesDriver, "it_is_found_by_name_and_by_url", "'lines' of the entry point group"),
    ],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("promise", "driver", "test", "seen"),
    [(promise, *fault) for promise, faults in FAULTS.items() for fault in faults],
    ids=lambda value: getattr(value, "__name__", None) or getattr(value, "name", None) or str(value)[:40],
)
def test_a_broken_promise_is_named(
    server: LineServer, promise: Promise, driver: type[LinesDriver], test: str, seen: str
) -> None:
    """By the promise, by what was seen, and by what to change."""
    contract = Every()
    contract.backend = Planted(server, driver)

    with pytest.raises(ContractBroken) as caught:
        getattr(contract, f"test_{test}")()
    clean_up_after(caught.value)
    broken.LeavesAThread.stop.set()
    broken.LeavesAThread.stop = threading.Event()
    while broken.LeavesASocket.kept:
        broken.LeavesASocket.kept.pop().close()

    assert caught.value.promise is promise
    assert seen in caught.value.seen
    assert str(caught.value) == (
        f"broken promise: {promise.says}\n  seen: {caught.value.seen}\n"
        f"  change: {promise.change} [{promise.name}]"
    )


def test_every_promise_can_be_broken() -> None:
    """One that no driver breaks would be one that no test checks."""
    assert set(FAULTS) == set(Promise)


def test_every_driver_that_was_broken_is_tried() -> None:
    """None of them stands there for nothing."""
    planted = {
        each
        for each in vars(broken).values()
        if isinstance(each, type) and each.__module__ == broken.__name__
    }

    tried = {driver for faults in FAULTS.values() for driver, _, _ in faults}

    assert planted == tried - {LinesDriver}


def test_a_verdict_that_was_not_written_down_is_named(server: LineServer) -> None:
    """What an author says about costs is held against the driver."""
    contract = Every()
    contract.backend = Planted(server, LinesDriver)
    contract.backend.after_question = {"full": Verdict.KEEP}  # type: ignore[misc]

    with pytest.raises(
        ContractBroken, match=re.escape("at level full it said Verdict.RESET, not Verdict.KEEP")
    ):
        contract.test_the_verdict_after_a_question_is_the_one_that_was_written_down()


def test_a_secret_that_nobody_looks_for_is_named(server: LineServer) -> None:
    """A class with secret options has to be tried with a wrong one."""

    class WithoutServers(DriverContract, KindContract):
        pass

    contract = WithoutServers()
    contract.backend = Planted(server, LinesDriver)

    with pytest.raises(ContractBroken, match=re.escape("nobody looks for ['password']")):
        contract.test_its_secrets_are_named_and_tried()


def test_it_runs_under_unittest(server: LineServer) -> None:
    """Whoever does not use pytest derives from TestCase as well."""

    class TestLines(DriverContract, SessionContract, unittest.TestCase):
        def setUp(self) -> None:
            self.backend = Lines(server)

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(TestLines)
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)

    assert result.wasSuccessful(), result.failures + result.errors
    assert result.testsRun > 20


def test_it_needs_no_pytest() -> None:
    """Importing it brings in neither pytest nor a client library."""
    program = (
        "import sys, millpond.testing.contract;"
        "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'millpond'})"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=30
    )

    assert "pytest" not in done.stdout.split()
    assert not {"asyncpg", "aiosqlite", "redis", "grpc"} & set(done.stdout.split())


def test_a_contract_without_tests_promises_nothing() -> None:
    """The base has none: whoever derives from it alone finds nothing tested."""
    assert not [name for name in dir(Contract) if name.startswith("test_")]
