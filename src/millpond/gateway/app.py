"""The gateway: an ASGI application that runs a hook's modules for each request to the hook's path.

What a request can rely on:

- 201 is sent after every module has stored it, and committed; 200 where there was
  nothing to store, only to log.
- Nothing is tried twice behind the sender's back. When a connection is lost,
  or a database does not answer in time, in the middle of a statement, nobody
  can tell whether the row was stored: the answer is 503.
- The modules of a hook run in order and the first that fails ends it. There is
  no common transaction: what the modules before it have stored stays stored.
- A connection is held while a statement runs, not while a body arrives.
- Who may not send is told so before the body is parsed, and nothing else.
- A request whose key is known is not stored again, and gets the answer of the
  first time with `Idempotent-Replayed: true`; see `idempotency`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from millpond.errors import PoolError, describe
from millpond.gateway import body
from millpond.gateway.authentication import Check, Unauthorized
from millpond.gateway.body import JSON_TYPES
from millpond.gateway.idempotency import Keys, fingerprint
from millpond.gateway.modules import Module
from millpond.gateway.pointer import Received
from millpond.gateway.refusals import WORDS, Disconnected, Fault, NoRow, NotStored, Outcome, Refused
from millpond.web.problems import UNAVAILABLE, problem, unavailable
from millpond.web.sparing import Sparing

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from millpond.registry import ConnectionPoolRegistry

_ALLOW: Final = {"Allow": "POST"}
_REPLAYED: Final = {"Idempotent-Replayed": "true"}


@dataclass(frozen=True, slots=True)
class Hook:
    """One path and what is done with a request to it.

    Attributes:
        path: exactly as requests name it.
        modules: run in this order.
        max_body_bytes: largest body that is taken.
        body_timeout: longest that a body may take to arrive, seconds.
        content_types: that are taken; `*` stands for any part.
        check: who may send; None: everybody.
        keys: finds the key by which a request is known again; None: each is new.
    """

    path: str
    modules: tuple[Module, ...]
    max_body_bytes: int
    body_timeout: float
    content_types: tuple[str, ...] = JSON_TYPES
    check: Check | None = field(default=None, repr=False)
    keys: Keys | None = field(default=None, repr=False)


class _Serving:
    """Hooks, and the requests that are served by them."""

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self.hooks = hooks
        self._requests = 0
        self._idle = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """No request is under way."""
        return self._requests == 0

    @contextmanager
    def request(self) -> Iterator[Mapping[str, Hook]]:
        """Around one request: it sees these hooks from beginning to end."""
        self._requests += 1
        try:
            yield self.hooks
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def ended(self) -> None:
        """Return when no request is under way; to be asked when no other will come."""
        while self._requests:
            self._idle.clear()
            await self._idle.wait()


class Gateway:
    """An ASGI application that answers POST on the paths of its hooks.

    Args:
        registry: where connections are borrowed.
        hooks: by path; a request sees one mapping from beginning to end.
    """

    def __init__(self, registry: ConnectionPoolRegistry, hooks: Mapping[str, Hook]) -> None:
        self._registry = registry
        self._serving = _Serving(hooks)
        self._log = Sparing(logging.getLogger("millpond.gateway"))
        self._before: list[_Serving] = []  # replaced, with requests under way

    @property
    def hooks(self) -> Mapping[str, Hook]:
        """The hooks that new requests find, by path."""
        return self._serving.hooks

    def replace(self, hooks: Mapping[str, Hook]) -> None:
        """Serve these from now on."""
        self._before = [each for each in (*self._before, self._serving) if not each.is_idle]
        self._serving = _Serving(hooks)

    async def quiet(self) -> None:
        """Return when the last request has ended that began under hooks which were replaced since."""
        for each in self._before:
            await each.ended()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
        try:
            answer = await self._answer(scope, receive)
        except Disconnected:
            return
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        """Serve the request, or say why not; raises `Disconnected` only."""
        with self._serving.request() as hooks:
            return await self._served(hooks, scope, receive)

    async def _served(self, hooks: Mapping[str, Hook], scope: Scope, receive: Receive) -> Response:
        path = _path(scope)
        hook = None
        try:
            hook = self._hook(hooks, path, scope["method"])
            received = await _received(hook, scope, receive)
            outcomes = [
                await self._run(
                    module, received, f"{hook.path} modules[{place}] -> {module.connection or 'log'}"
                )
                for place, module in enumerate(hook.modules)
            ]
            return _confirmation(hook, outcomes)
        except Unauthorized as stranger:
            assert hook is not None and hook.check is not None  # noqa: S101 - for the type checker
            self._log.warning((path, str(stranger)), "%s: answered 401: %s", path, stranger)
            return problem(401, None, {"WWW-Authenticate": hook.check.challenge})
        except Refused as refused:
            return problem(refused.status, refused.detail, refused.headers)
        except NotStored as failed:
            if failed.fault is Fault.AWAY:
                return unavailable()
            return problem(failed.fault.value, WORDS[failed.fault])
        except UNAVAILABLE as error:
            assert isinstance(error, PoolError)  # noqa: S101 - for the type checker
            self._log.warning((error.pool, type(error)), "answered 503: %s", error)
            return unavailable(error.retry_after_seconds)
        except Disconnected:
            raise
        except Exception as error:
            self._log.error((path, type(error)), "%s: answered 500: %s", path, describe(error))
            return problem(500)

    def _hook(self, hooks: Mapping[str, Hook], path: str, method: str) -> Hook:
        hook = hooks.get(path)
        if hook is None:
            raise Refused(404, "There is nothing at this path.")
        if method != "POST":
            raise Refused(405, "Only POST is answered here.", _ALLOW)
        return hook

    async def _run(self, module: Module, received: Received, where: str) -> Outcome:
        """Store the request with one module.

        Raises:
            NotStored: it could not, and that is logged.
            Refused: 422, its key belongs to another request.
            PoolError: no connection could be had.
        """
        try:
            outcome = await self._stored(module, received)
            if outcome is Outcome.OTHER:
                raise Refused(422, "The key of this request came before with another body.")
            return outcome
        except (PoolError, Refused):
            raise
        except NotStored as error:
            failed = error
        except NoRow:
            failed = NotStored(Fault.MISFIT, "the statement succeeded but stored no row: is there a trigger?")
        except TimeoutError:
            failed = NotStored(
                Fault.AWAY, f"no answer within {module.timeout:g} s; whether the row is stored is not known"
            )
        except Exception as error:
            failed = module.explain(error)
        say = self._log.error if failed.fault is Fault.MISFIT else self._log.warning
        say((where, failed.why), "%s: answered %d: %s", where, failed.fault.value, failed.why)
        raise failed

    async def _stored(self, module: Module, received: Received) -> Outcome:
        if module.connection is None:
            return await module.store(None, received)
        # The client library's own error goes through the lease, whose driver judges the connection by it.
        async with self._registry.acquire(module.connection) as conn, asyncio.timeout(module.timeout):
            named = self._registry.named.get(module.connection)
            if named is not None and named.kind != module.kind:
                # The hook has changed with it; this request came before, and finds the new one next time.
                raise NotStored(Fault.AWAY, f"the connection has become one of kind {named.kind!r}")
            return await module.store(conn, received)


def _confirmation(hook: Hook, outcomes: Sequence[Outcome]) -> Response:
    """The answer to a request that every module has taken; modules without a connection only wrote a line."""
    stored = [
        outcome
        for module, outcome in zip(hook.modules, outcomes, strict=True)
        if module.connection is not None
    ]
    came_before = bool(stored) and all(outcome is Outcome.BEFORE for outcome in stored)
    return JSONResponse(
        {"stored": len(stored)},
        status_code=201 if stored else 200,
        headers=_REPLAYED if came_before else None,
    )


async def _received(hook: Hook, scope: Scope, receive: Receive) -> Received:
    """The whole request, from somebody who may send it.

    Raises:
        Unauthorized: it is from somebody else.
        Refused: it is not what the hook takes.
        Disconnected: the sender went away.
    """
    received_at = datetime.now(UTC).isoformat(timespec="microseconds")
    headers = Headers(scope=scope)
    check_body = None if hook.check is None else hook.check.head(headers)
    if check_body is None:
        body.check_type(headers, hook.content_types)
    body.check_length(headers, most=hook.max_body_bytes)
    content = await body.read(receive, most=hook.max_body_bytes, timeout=hook.body_timeout)
    if check_body is not None:
        check_body(content)
    # Of what a stranger sends nothing is judged but its size.
    media_type = body.check_type(headers, hook.content_types)
    text, parsed = body.parse(content)
    key = None if hook.keys is None else hook.keys.key(headers, parsed)
    client = scope.get("client")
    return Received(
        path=hook.path,
        received_at=received_at,
        text=text,
        body=parsed,
        size=len(content),
        media_type=media_type,
        sender=client[0] if client else "",
        key=key,
        fingerprint="" if key is None else fingerprint(text),
    )


def _path(scope: Scope) -> str:
    """The path below the place where the gateway is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path
