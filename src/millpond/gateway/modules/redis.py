"""A request goes to Redis: onto a list, into a stream, to a channel's listeners, or under a key.

Texts are written as they are, numbers, truths, objects and lists as JSON;
`$body` is the JSON text of the whole body. Safe means that Redis has done it:
whether it survives a crash of the server is said by the server's own
`appendonly` and `appendfsync`. What is published is received by those who
listen at that moment, and by nobody later.

With a key of its own a request is written by a script, which runs alone: it
looks for the key, writes, and keeps the key only when that succeeded. A MULTI
could not do that, for it goes on after a command that fails.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, assert_never

from redis.exceptions import (
    ClusterError,
    DataError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from millpond.drivers._redis_client import RedisConnection
from millpond.errors import describe
from millpond.gateway.idempotency import Keeping
from millpond.gateway.module_models import ListPush, Publish, SetKey, StreamAdd
from millpond.gateway.pointer import Received, Template, encoded, source
from millpond.gateway.refusals import Fault, NotStored, Outcome

Model: TypeAlias = ListPush | StreamAdd | Publish | SetKey

# What passes by itself, where redis-py has no class for it. Source: Redis 7.0, the shared error replies.
_PASSING_WORDS: Final = ("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE")
_PASSING: Final = (OutOfMemoryError, ReadOnlyError, ClusterError, TryAgainError)

# KEYS: the request's own. ARGV: the body's fingerprint, how long the key is kept (ms), whether 0 means that
# nothing was done, and the command. An error is returned, for a raised one would come in the script's words.
_ONCE: Final = """
local before = redis.call('GET', KEYS[1])
if before then return before == ARGV[1] and 'before' or 'other' end
local answer = redis.pcall(unpack(ARGV, 4))
if type(answer) == 'table' and answer.err then return answer end
if answer == false or (ARGV[3] == '1' and answer == 0) then return 'nothing' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 'done'
"""


class RedisWrites:
    """This writes each request to Redis, in one command or one script."""

    kind = "redis"

    def __init__(self, model: Model, keeping: Keeping | None = None) -> None:
        self.connection = model.connection
        self.timeout = model.timeout
        self._model = model
        self._keeping = keeping
        self._name = Template(model.channel if isinstance(model, Publish) else model.key)
        words = model.fields if isinstance(model, StreamAdd) else {"value": model.value}
        self._sources = [(name, source(each)) for name, each in words.items()]
        # Of PUBLISH 0 says how many have heard it; nothing else answers 0.
        self._zero_is_nothing = isinstance(model, Publish) and model.require_receiver

    async def store(self, conn: RedisConnection, received: Received) -> Outcome:
        """Write it; Redis has done it when this returns."""
        command = self._command(received)
        keeping = self._keeping
        id = None if keeping is None else keeping.id_of(received)
        if keeping is None or id is None:
            answer = await conn.execute_command(*command)
            if answer is None or (answer == 0 and self._zero_is_nothing):
                raise self._nothing()
            return Outcome.DONE
        kept_ms, zero = round(keeping.ttl * 1000), int(self._zero_is_nothing)
        # Every key that a script touches is named before it runs, for servers that ask for that.
        keys = [f"{keeping.table}:{id}"]
        if not isinstance(self._model, Publish):
            keys.append(command[1])
        answer = await conn.execute_command(
            "EVAL", _ONCE, len(keys), *keys, received.fingerprint, kept_ms, zero, *command
        )
        match answer.decode() if isinstance(answer, bytes) else answer:
            case "done":
                return Outcome.DONE
            case "before":
                return Outcome.BEFORE
            case "other":
                return Outcome.OTHER
            case _:
                raise self._nothing()

    def explain(self, error: Exception) -> NotStored:
        """What an error of `store` means; of the server's words only those that hold no values."""
        if isinstance(error, UnicodeError | DataError):
            return NotStored(Fault.UNFIT, type(error).__name__)
        if not isinstance(error, ResponseError):
            # A connection that is gone, a server that is loading its data.
            is_away = isinstance(error, RedisError | OSError)
            return NotStored(Fault.AWAY if is_away else Fault.MISFIT, describe(error))
        is_passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_WORDS)
        # A server that does not know a command repeats what it was to do.
        words = describe(error).partition(", with args")[0]
        return NotStored(Fault.AWAY if is_passing else Fault.MISFIT, words)

    def _command(self, received: Received) -> list[Any]:
        """The command that writes this request; its first argument is what is written to.

        Raises:
            NotStored: what it needs is not in the body.
        """
        name = self._name.filled(received).encode()
        values = [(field, encoded(value_of(received))) for field, value_of in self._sources]
        found = [(field, value) for field, value in values if value is not None]
        if not found:
            raise NotStored(Fault.UNFIT, "the pointer finds nothing in the body")
        model = self._model
        match model:
            case ListPush():
                return ["LPUSH" if model.side == "left" else "RPUSH", name, found[0][1]]
            case StreamAdd():
                limit = [] if model.max_length is None else ["MAXLEN", "~", model.max_length]
                return ["XADD", name, *limit, "*", *(word for pair in found for word in pair)]
            case Publish():
                return ["PUBLISH", name, found[0][1]]
            case SetKey():
                expiry = [] if model.ttl is None else ["PX", round(model.ttl * 1000)]
                return ["SET", name, found[0][1], *expiry, *(["NX"] if model.if_absent else [])]
            case _:
                assert_never(model)

    def _nothing(self) -> NotStored:
        """What it means that the command did nothing and did not fail."""
        if isinstance(self._model, SetKey):
            return NotStored(Fault.CONFLICT, "the key is there already")
        return NotStored(Fault.AWAY, "nobody listens on the channel")
