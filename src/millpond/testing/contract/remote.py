"""What a driver promises whose backend is a server: it may hang up, refuse, be away; and processes fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from typing import Any, Final

from millpond.driver import ForkAware, Redacting, Verdict
from millpond.errors import describe
from millpond.testing.contract.backend import Knows, until
from millpond.testing.contract.base import Contract, in_a_loop
from millpond.testing.contract.every import until_quiet
from millpond.testing.contract.promises import Promise

_FORK_S: Final = 60.0

# Forks while a connection is open, in a process that runs no threads but what the driver needs.
_FORK: Final = """
import asyncio, gc, importlib, json, os, sys, warnings

module, name, options, patience = json.load(sys.stdin)
driver = getattr(importlib.import_module(module), name)(**options)
warnings.simplefilter("ignore", DeprecationWarning)  # forking where threads run, since Python 3.12

async def main():
    conn = await driver.connect()
    descriptors = driver.filenos(conn)
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in descriptors:
                os.dup2(null, descriptor)  # as the pool does
            del conn
            gc.collect()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = "ok"
    try:
        await asyncio.wait_for(driver.ping(conn), patience)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    driver.terminate(conn)
    print(json.dumps([said, len(descriptors)]))

asyncio.run(main())
"""


class RemoteContract(Contract):
    """The other end is another process.

    Needs `end_all`, `unreachable`, `options`, and `wrong_secret` where there are secrets.
    """

    @in_a_loop
    async def test_a_connection_that_the_backend_ended_is_not_lent_again(self) -> None:
        """Its ping fails; where the driver can tell without I/O, it does, and the verdict follows."""
        driver = self.backend.driver()
        conn = await self.open(driver)
        await self.answers(conn, 1, "on a fresh connection")

        await self.backend.end_all()
        await self.none_left(Promise.BOOKS, "after the backend ended them all")

        if self.backend.knows is Knows.HANG_UPS:
            await self._is_seen_closed(driver, conn)
            for error in (None, ValueError("the borrower's own")):
                if driver.after_lease(conn, error) not in (Verdict.DISCARD, Verdict.DISCARD_ALL):
                    raise Promise.LOST.broken(f"after {error!r} it said {driver.after_lease(conn, error)}")
        await self.fails(driver.ping(conn), Promise.PING, "ping() after the backend hung up")
        self.terminated(driver, conn, "after the backend hung up")

    @in_a_loop
    async def test_the_error_of_a_lost_connection_condemns_it(self) -> None:
        """A borrower whose request ended because the backend went away does not hand the connection on."""
        driver = self.backend.driver()
        conn = await self.open(driver)
        slow = await self.backend.start_slow(conn)

        await self.backend.end_all()
        error = await self.fails(slow, Promise.LOST, "a request whose backend hung up")

        verdict = driver.after_lease(conn, error)
        if verdict not in (Verdict.DISCARD, Verdict.DISCARD_ALL):
            raise Promise.LOST.broken(f"after {describe(error)} it said {verdict}")

    @in_a_loop
    async def test_a_pool_replaces_what_the_backend_ended(self) -> None:
        """Borrowers who come afterwards get answers, if the driver can tell; and the books agree again."""
        async with self.pool(self.backend.driver(), max_size=3, validate_after_idle=0.0) as pool:
            lent = [await pool.lease() for _ in range(3)]
            for lease in lent:
                lease.release()
            await until_quiet(pool)

            await self.backend.end_all()
            await self.none_left(Promise.BOOKS, "after the backend ended them all")

            for number in range(5):
                async with pool.acquire() as conn:
                    await self.answers(conn, number, "from a pool whose sessions the backend had ended")
            await until_quiet(pool)
            await self.none_left(Promise.BOOKS, "while the pool is at rest", left=pool.status().total)

    @in_a_loop
    async def test_who_does_not_answer_may_answer_later(self) -> None:
        """A connect that is refused is no reason to give up for good."""
        driver = self.backend.driver(**self._needed("unreachable"))

        error = await self.fails(driver.connect(), Promise.PERMANENT, "connect() where nobody answers")

        if driver.is_permanent(error):
            raise Promise.PERMANENT.broken(f"is_permanent() is True for {describe(error)}")

    @in_a_loop
    async def test_a_secret_that_the_backend_refuses_stays_unsaid(self) -> None:
        """Neither error nor repr repeats it, through the pool neither; and nobody tries it again."""
        if not self.backend.wrong_secret:
            return
        secrets = [value for value in self.backend.wrong_secret.values() if isinstance(value, str)]
        driver = self.backend.driver(**self.backend.wrong_secret)

        error = await self.fails(driver.connect(), Promise.PERMANENT, "connect() with a wrong secret")
        if not driver.is_permanent(error):
            raise Promise.PERMANENT.broken(
                f"is_permanent() is False for {type(error).__name__}, a wrong secret"
            )
        async with self.pool(driver) as pool:
            refused = await self.fails(pool.lease(), Promise.PERMANENT, "a lease with a wrong secret")
            told = "".join(traceback.format_exception(error))
            texts = {
                # What the server repeats is masked by the driver, or else by the pool with redact().
                "the error of connect()": driver.redact(told) if isinstance(driver, Redacting) else told,
                "the error of the pool": "".join(traceback.format_exception(refused)),
                "repr(driver)": repr(driver),
                "the pool": f"{pool!r} {pool.status()!r} {pool.status().as_dict()!r}",
            }
        if isinstance(driver, Redacting):
            texts["what redact() returns"] = driver.redact(f"a text with {secrets}")
        for where, text in texts.items():
            if any(secret in text for secret in secrets):
                raise Promise.SECRET.broken(f"{where} holds it")

    def test_the_child_of_a_fork_harms_no_session(self) -> None:
        """The pool in the child closes the descriptors that the driver names; the parent goes on."""
        driver = self.backend.driver()
        if not isinstance(driver, ForkAware):
            return
        kind = type(driver)
        done = subprocess.run(  # noqa: S603 - our own interpreter, and a program that stands above
            [sys.executable, "-c", _FORK],
            input=json.dumps([kind.__module__, kind.__name__, dict(self._needed("options")), self.patience]),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=_FORK_S,
        )
        if done.returncode or not done.stdout:
            raise Promise.FORK.broken(f"the process that forks failed: {done.stderr[-2000:].strip()}")
        said, descriptors = json.loads(done.stdout)
        if not descriptors:
            raise Promise.FORK.broken("filenos() of an open connection names none")
        if said != "ok":
            raise Promise.FORK.broken(f"after a child had ended, the parent's ping raised {said}")
        self.in_a_loop(self._nobody_stays)

    async def _nobody_stays(self) -> None:
        await self.none_left(Promise.FORK, "after a process and its child have ended")

    async def _is_seen_closed(self, driver: Any, conn: Any) -> None:
        async def is_closed() -> bool:
            return bool(driver.is_closed(conn))

        try:
            await until(is_closed, within=self.patience)
        except TimeoutError:
            raise Promise.KNOWN_CLOSED.broken("is_closed() is False after the backend hung up") from None

    def _needed(self, what: str) -> dict[str, Any]:
        options: dict[str, Any] = dict(getattr(self.backend, what))
        if not options:
            raise NotImplementedError(f"a RemoteContract needs Backend.{what}")
        return options
