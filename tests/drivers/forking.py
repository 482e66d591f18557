"""Fork a process that holds a connection: one of its own, which runs no threads but what it needs."""

import asyncio
import json
import subprocess
import sys
from typing import Any, Final

PROGRAM: Final = """
import asyncio, gc, importlib, json, os, sys, warnings, weakref

module, name, options = json.load(sys.stdin)
driver = getattr(importlib.import_module(module), name)(**options)
warnings.simplefilter("ignore")  # forking where threads run is deprecated since Python 3.12


async def main():
    conn = await driver.connect()
    (descriptor,) = driver.filenos(conn)
    child = os.fork()
    if child == 0:
        try:
            inherited = weakref.ref(conn)
            del conn
            gc.collect()
            os.close(descriptor)  # as the pool does
            os._exit(0 if inherited() is not None else 3)
        finally:
            os._exit(4)
    _, status = os.waitpid(child, 0)
    await driver.ping(conn)
    await driver.close(conn)
    print(json.dumps([os.waitstatus_to_exitcode(status), driver.filenos(conn)]))


asyncio.run(main())
"""


async def forked(driver_class: type, **options: Any) -> tuple[int, list[int]]:
    """Let the child of a fork close its copy of a connection and collect its garbage; then ping the parent's.

    Returns:
        the child's exit status, 0 if the connection was not finalized there, and the descriptors of the
        parent's connection after it was closed.
    """
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([driver_class.__module__, driver_class.__name__, options]),
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    status, descriptors = json.loads(done.stdout)
    return status, descriptors
