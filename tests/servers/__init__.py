"""Private, real servers for tests: started from installed binaries, harmed at will, never left behind.

`processes` knows process trees, `keeper` ends what a crashed test run leaves, `ports` finds a port,
`server` is what every server can do (start, stop, kill, freeze), and each backend has one file that
knows its binaries. Run as a program (`python -m tests.servers`) it installs what is missing.
"""

from tests.servers.mariadb import MariaDBServer, MariaDBTemplate, Visitor
from tests.servers.ports import free_port
from tests.servers.postgres import Client, PostgresServer, PostgresTemplate
from tests.servers.rabbitmq import AMQPChannel, AMQPConnection, RabbitMQServer
from tests.servers.redis import RedisClient, RedisServer
from tests.servers.server import BinariesMissing, Server, ServerFailed

__all__ = [
    "AMQPChannel",
    "AMQPConnection",
    "BinariesMissing",
    "Client",
    "MariaDBServer",
    "MariaDBTemplate",
    "PostgresServer",
    "PostgresTemplate",
    "RabbitMQServer",
    "RedisClient",
    "RedisServer",
    "Server",
    "ServerFailed",
    "Visitor",
    "free_port",
]
