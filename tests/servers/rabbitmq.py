"""Private RabbitMQ nodes.

A node runs under a name of its own and never asks or starts the machine's port mapper (epmd): its one
distribution port is told to Erlang directly. Its cookie lies in its own directory, and it listens on loopback
only. The tests' administration comes over a Unix socket at which the node evaluates Erlang: that takes a
millisecond, where `rabbitmqctl` takes two seconds to start.
"""

import os
import shutil
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.servers import ports
from tests.servers.server import BinariesMissing, Server, ServerFailed

USER = "app"
PASSWORD = "app-secret"
ADMIN = "the-tests"
DEBIAN_PACKAGE = "rabbitmq-server"

_ACCOUNT = "rabbitmq"
_RELEASES = Path("/usr/lib/rabbitmq/lib")

# Answers each question, one a connection, with what the expression gives: text.
_ADMINISTRATION = """
spawn(fun() ->
  {{ok, Listener}} = gen_tcp:listen(0, [{{ifaddr, {{local, "{socket}"}}}}, binary, {{packet, 4}},
    {{active, false}}, {{backlog, 128}}]),
  Evaluated = fun(Text) ->
    try
      {{ok, Tokens, _}} = erl_scan:string(unicode:characters_to_list(Text)),
      {{ok, Expressions}} = erl_parse:parse_exprs(Tokens),
      {{value, Value, _}} = erl_eval:exprs(Expressions, []),
      ["ok ", io_lib:format("~ts", [Value])]
    catch Class:Reason -> io_lib:format("failed ~0tp: ~0tp", [Class, Reason]) end
  end,
  Answer = fun(Socket) ->
    receive go -> ok end,
    {{ok, Question}} = gen_tcp:recv(Socket, 0),
    gen_tcp:send(Socket, unicode:characters_to_binary(Evaluated(Question)))
  end,
  Accept = fun Accept() ->
    {{ok, Socket}} = gen_tcp:accept(Listener),
    Answering = spawn(fun() -> Answer(Socket) end),
    ok = gen_tcp:controlling_process(Socket, Answering),
    Answering ! go,
    Accept()
  end,
  Accept()
end).
"""

# One line an entry, fields parted by tabs.
_LISTED = """
Rows = [[V || {{_, V}} <- Info] || Info <- {rows}],
lists:join("\\n", [lists:join("\\t", [io_lib:format("~ts",
  [if is_binary(V) -> V; true -> io_lib:format("~0tp", [V]) end]) || V <- Row]) || Row <- Rows]).
"""
_NAME = (
    'proplists:get_value(<<"connection_name">>, [{K, V} || {K, _, V} <- '
    "proplists:get_value(client_properties, rabbit_networking:connection_info(Pid, [client_properties]))], "
    "<<>>)"
)


@dataclass(frozen=True, slots=True)
class AMQPConnection:
    """One connection, as the server lists it; `name` is what the client calls itself."""

    pid: str
    name: str
    user: str
    channels: int
    state: str
    heartbeat: int
    port: int  # the client's


@dataclass(frozen=True, slots=True)
class AMQPChannel:
    """One channel, as the server lists it."""

    connection: str  # the pid of its connection
    number: int
    is_transactional: bool
    is_confirming: bool
    prefetch: int
    global_prefetch: int
    consumers: int
    unacknowledged: int
    unconfirmed: int


def find_binaries() -> Path:
    """The directory of RabbitMQ's release; Erlang must be there too.

    Raises:
        BinariesMissing: if one of them is not.
    """
    releases = sorted(_RELEASES.glob("rabbitmq_server-*/plugins"))
    if not releases or shutil.which("erl") is None:
        raise BinariesMissing(
            f"the tests need a RabbitMQ server and found none (looked for {_RELEASES} and erl): "
            f"install it (on Debian: apt-get install {DEBIAN_PACKAGE})"
        )
    return releases[-1].parent


class RabbitMQServer(Server):
    """A RabbitMQ node on a free port.

    Args:
        settings: more of rabbitmq.conf.
    """

    kind = "rabbitmq"
    account = _ACCOUNT

    def __init__(self, *, settings: Mapping[str, str | int] | None = None) -> None:
        super().__init__()
        self.user, self.password = USER, PASSWORD
        self._release = find_binaries()
        self._distribution_port = ports.free_port()
        # Where the node looks for a port mapper: it is refused at once, and does not ask the machine's own.
        self._nobodys_port = ports.free_port()
        self._settings: dict[str, str | int] = {
            "listeners.tcp.1": f"{self.host}:{self.port}",
            "default_user": USER,
            "default_pass": PASSWORD,
            "loopback_users": "none",
            **(settings or {}),
        }

    @property
    def node(self) -> str:
        """The node's name in Erlang."""
        return f"millpond-{self.port}@localhost"

    @property
    def administration(self) -> Path:
        """The Unix socket at which the node evaluates Erlang."""
        return self.directory / "admin.sock"

    def prepare(self) -> None:
        files = {
            "rabbitmq.conf": "".join(f"{name} = {value}\n" for name, value in self._settings.items()),
            "rabbitmq-env.conf": "",
            "enabled_plugins": "[].\n",
        }
        for name, text in files.items():
            (self.directory / name).write_text(text)

    def command(self) -> list[str]:
        self.administration.unlink(missing_ok=True)
        at = self.directory
        environment = {
            "HOME": at,
            "ERL_LIBS": self._release / "plugins",
            "RABBITMQ_HOME": self._release,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution_port,
            "RABBITMQ_CONF_ENV_FILE": at / "rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": at / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": at / "advanced.config",
            "RABBITMQ_GENERATED_CONFIG_DIR": at / "generated",
            "RABBITMQ_ENABLED_PLUGINS_FILE": at / "enabled_plugins",
            "RABBITMQ_MNESIA_BASE": at / "mnesia",
            "RABBITMQ_LOG_BASE": at / "log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": at / "pid",
            "ERL_EPMD_PORT": self._nobodys_port,
        }
        return [
            "env", *(f"{name}={value}" for name, value in environment.items()),
            "erl", "-noinput", "-boot", "start_sasl", "+W", "w", "+sbwt", "none",
            "-sname", self.node, "-start_epmd", "false", "-erl_epmd_port", str(self._distribution_port),
            "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
            "-kernel", "prevent_overlapping_partitions", "false",
            "-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false",
            "-eval", _ADMINISTRATION.format(socket=self.administration),
            "-s", "rabbit", "boot",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Whether it has booted and listens."""
        if not self.administration.exists() or not ports.answers(self.port):
            return False
        try:
            return self.evaluate("atom_to_list(rabbit:is_running()).", timeout=5.0) == "true"
        except (ServerFailed, OSError):
            return False

    def dsn(self, *, vhost: str = "/", user: str | None = None, password: str | None = None) -> str:
        """The URL under which a client finds it; by default as the user `app`."""
        user = quote(self.user if user is None else user, safe="")
        password = quote(self.password if password is None else password, safe="")
        return f"amqp://{user}:{password}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def evaluate(self, expressions: str, *, timeout: float = 30.0) -> str:
        """What Erlang expressions give, which must be text; they end with a dot.

        Raises:
            ServerFailed: an expression raised; the message says what.
            OSError: the node does not answer.
        """
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(timeout)
            asked.connect(os.fspath(self.administration))
            question = expressions.encode()
            asked.sendall(struct.pack(">I", len(question)) + question)
            with asked.makefile("rb") as reader:
                (size,) = struct.unpack(">I", reader.read(4))
                outcome, _, text = reader.read(size).decode().partition(" ")
        if outcome != "ok":
            raise ServerFailed(f"{expressions!r} failed: {text}")
        return text

    def connections(self) -> list[AMQPConnection]:
        """The connections that clients have open now, handshakes under way included."""
        items = "[pid, user, channels, state, timeout, peer_port]"
        rows = self._listed(
            "[I || Pid <- rabbit_networking:local_connections(), "
            f"I <- [try [{{n, {_NAME}}} | rabbit_networking:connection_info(Pid, {items})] "
            "catch _:_ -> [] end], I =/= []]"
        )
        return [
            AMQPConnection(
                name=name,
                pid=pid,
                user=user,
                channels=_number(channels),
                state=state,
                heartbeat=_number(heartbeat),
                port=_number(port),
            )
            for name, pid, user, channels, state, heartbeat, port in rows
        ]

    def channels(self) -> list[AMQPChannel]:
        """The channels that clients have open now."""
        items = (
            "[connection, number, transactional, confirm, prefetch_count, global_prefetch_count, "
            "consumer_count, messages_unacknowledged, messages_unconfirmed]"
        )
        rows = self._listed(
            "[I || Pid <- rabbit_channel:list_local(), "
            f"I <- [try rabbit_channel:info(Pid, {items}) catch _:_ -> [] end], I =/= []]"
        )
        return [
            AMQPChannel(each[0], int(each[1]), each[2] == "true", each[3] == "true", *map(int, each[4:]))
            for each in rows
        ]

    def close_connection(self, connection: AMQPConnection, reason: str = "closed by the test") -> None:
        """End one connection from the server's side, with a word."""
        self.evaluate(f'rabbit_networking:close_connection(list_to_pid("{connection.pid}"), "{reason}"), "".')

    def declare(self, queue: str, *, messages: int = 0, **arguments: int | str) -> None:
        """Declare a queue and put messages into it; arguments are Erlang terms."""
        table = ", ".join(
            f'{{<<"{name}">>, {"signedint" if isinstance(value, int) else "longstr"}, {value}}}'
            for name, value in arguments.items()
        )
        self.evaluate(
            f"{{_, Q}} = rabbit_amqqueue:declare({_named(queue)}, false, false, [{table}], none, "
            f'<<"{ADMIN}">>), '
            f"[rabbit_amqqueue:deliver([Q], rabbit_basic:delivery(false, false, rabbit_basic:message("
            f'rabbit_misc:r(<<"/">>, exchange, <<>>), <<"{queue}">>, [], <<"{{N}}">>), undefined)) '
            f'|| N <- lists:seq(1, {messages})], "".'
        )

    def delete_queues(self, prefix: str) -> None:
        """Delete the queues whose names begin with this; an exclusive one may end by itself meanwhile."""
        self.evaluate(
            f'[catch rabbit_amqqueue:delete(Q, false, false, <<"{ADMIN}">>) || Q <- rabbit_amqqueue:list(), '
            f'lists:prefix("{prefix}.", binary_to_list(element(4, amqqueue:get_name(Q))))], "".'
        )

    def flush(self) -> None:
        """Write to disk what the server knows of its queues; for seconds it would be lost by a kill."""
        self.evaluate('mnesia:dump_log(), mnesia:sync_log(), "".')

    def messages(self, queue: str) -> int:
        """How many messages lie ready in a queue."""
        ready = "[{_, N}] = rabbit_amqqueue:info(Q, [messages_ready]), integer_to_list(N)."
        return int(self.evaluate(f"{_queue(queue)}, {ready}"))

    def add_vhost(self, name: str) -> None:
        """Add a virtual host to which the user `app` may go."""
        self.evaluate(
            f'rabbit_vhost:add(<<"{name}">>, <<"{ADMIN}">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"{USER}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"{ADMIN}">>), "".'
        )

    def limit_vhost(self, name: str, *, connections: int | None) -> None:
        """Let a virtual host have so many connections; None: any number."""
        limits = f'[{{<<"max-connections">>, {-1 if connections is None else connections}}}]'
        self.evaluate(f'ok = rabbit_vhost_limit:set(<<"{name}">>, {limits}, <<"{ADMIN}">>), "".')

    def delete_vhost(self, name: str) -> None:
        """Take a virtual host away, and what is in it."""
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"{ADMIN}">>), "".')

    def suspend_queue(self, queue: str) -> None:
        """Have a queue do nothing: what is published there is not confirmed before `resume_queue`."""
        self.evaluate(f'{_queue(queue)}, sys:suspend(amqqueue:get_pid(Q)), "".')

    def resume_queue(self, queue: str) -> None:
        """Undo `suspend_queue`; a queue that is gone, as after a restart, needs none."""
        found = f"{{ok, Q}} <- [rabbit_amqqueue:lookup({_named(queue)})]"
        self.evaluate(f'[sys:resume(amqqueue:get_pid(Q)) || {found}], "".')

    def set_alarm(self) -> None:
        """Say that memory is short: connections that publish are blocked."""
        self.evaluate('rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}), "".')

    def clear_alarm(self) -> None:
        """Undo `set_alarm`."""
        self.evaluate('rabbit_alarm:clear_alarm({resource_limit, memory, node()}), "".')

    def _listed(self, rows: str) -> list[list[str]]:
        text = self.evaluate(_LISTED.format(rows=rows))
        return [line.split("\t") for line in text.splitlines()]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0  # empty while the handshake is under way


def _queue(name: str) -> str:
    return f"{{ok, Q}} = rabbit_amqqueue:lookup({_named(name)})"


def _named(name: str) -> str:
    return f'rabbit_misc:r(<<"/">>, queue, <<"{name}">>)'
