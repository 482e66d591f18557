"""Which Redis commands leave a session as it was.

A list of the harmless ones, not of the others: what is not known here (a newer server's command, a
module's, one that was renamed) counts as a change of the session, which costs a reset and no more.
"""

from typing import Final

_KEYS: Final = """
    COPY DEL DUMP EXISTS EXPIRE EXPIREAT EXPIRETIME KEYS MIGRATE MOVE PERSIST PEXPIRE PEXPIREAT PEXPIRETIME
    PTTL RANDOMKEY RENAME RENAMENX RESTORE SCAN SORT SORT_RO TOUCH TTL TYPE UNLINK OBJECT
    DBSIZE FLUSHALL FLUSHDB SWAPDB
"""
_STRINGS: Final = """
    APPEND BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS DECR DECRBY GET GETBIT GETDEL GETEX GETRANGE GETSET
    INCR INCRBY INCRBYFLOAT LCS MGET MSET MSETNX PFADD PFCOUNT PFMERGE PSETEX SET SETBIT SETEX SETNX
    SETRANGE STRLEN SUBSTR
"""
_LISTS_AND_SETS: Final = """
    BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH LINDEX LINSERT LLEN LMOVE LMPOP LPOP LPOS LPUSH LPUSHX LRANGE LREM
    LSET LTRIM RPOP RPOPLPUSH RPUSH RPUSHX
    SADD SCARD SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SPOP
    SRANDMEMBER SREM SSCAN SUNION SUNIONSTORE
"""
_HASHES: Final = """
    HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS HLEN
    HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN
    HTTL HVALS
"""
_SORTED_SETS: Final = """
    BZMPOP BZPOPMAX BZPOPMIN ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE
    ZLEXCOUNT ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK
    ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK
    ZSCAN ZSCORE ZUNION ZUNIONSTORE
    GEOADD GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH
    GEOSEARCHSTORE
"""
_STREAMS: Final = """
    XACK XADD XAUTOCLAIM XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID
    XTRIM
"""
# SELECT and its kind, inside a script, end with the script.
_SCRIPTS: Final = "EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO FUNCTION"
_SERVER: Final = """
    BGREWRITEAOF BGSAVE CLUSTER COMMAND CONFIG ECHO INFO LASTSAVE LATENCY MEMORY PING PUBLISH PUBSUB ROLE
    SAVE SLOWLOG SPUBLISH TIME WAIT WAITAOF
"""

HARMLESS: Final = frozenset(
    " ".join((_KEYS, _STRINGS, _LISTS_AND_SETS, _HASHES, _SORTED_SETS, _STREAMS, _SCRIPTS, _SERVER)).split()
)
"""Commands of one word, in capitals, that no next borrower can tell from their not having been sent."""

_HARMLESS_PAIRS: Final = frozenset({
    *(f"SCRIPT {word}" for word in ("EXISTS", "FLUSH", "KILL", "LOAD")),
    *(
        f"CLIENT {word}"
        for word in (
            *("GETNAME", "GETREDIR", "ID", "INFO", "KILL", "LIST", "PAUSE", "TRACKINGINFO", "UNBLOCK"),
            "UNPAUSE",
        )
    ),
})  # fmt: skip

# Commands of the modules that come with the server: all of them are about keys.
_HARMLESS_MODULES: Final = frozenset({"BF", "CF", "CMS", "FT", "JSON", "TDIGEST", "TOPK", "TS"})

UNENDING: Final = frozenset({
    "MONITOR", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC",
    "UNSUBSCRIBE", "CLIENT REPLY", "QUIT",
})  # fmt: skip
"""Commands after which the server's answers cannot be told apart any more: one too many, or none."""

LASTING: Final = frozenset({"CLIENT NO-EVICT", "CLIENT NO-TOUCH", "CLIENT SETINFO", "HIMPORT"})
"""Commands whose effect may outlive a RESET, by servers of some version at least."""


def spoken(*arguments: object) -> str:
    """The command that `arguments` begin with, in capitals: one word, or two where the second decides."""
    words = " ".join(map(_text, arguments[:2])).upper().split()
    first = words[0] if words else ""
    return " ".join(words[:2]) if first in ("CLIENT", "SCRIPT") else first


def is_harmless(command: str) -> bool:
    """True when a command, as `spoken` gives it, leaves the session as it was."""
    if command in HARMLESS or command in _HARMLESS_PAIRS:
        return True
    module, dot, _ = command.partition(".")
    return bool(dot) and module in _HARMLESS_MODULES


def _text(argument: object) -> str:
    match argument:
        case str():
            return argument
        case bytes() | bytearray() | memoryview():
            return bytes(argument[:32]).decode("latin-1")
        case _:
            return ""
