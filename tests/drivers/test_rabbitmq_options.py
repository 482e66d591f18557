"""The options of RabbitMQ: what is refused before anybody connects, what a URL says, what sizes count."""

from typing import Any

import aiormq
import pytest

from millpond import ConfigError, PoolSettings, create_pool
from millpond.drivers.rabbitmq import RabbitMQDriver, Refused
from millpond.registry.model import connection_config

NO_SECRET = "hunter2"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", ""),
        ("host", "one,two"),
        ("port", 0),
        ("port", "5672"),
        ("vhost", ""),
        ("user", ""),
        ("user", None),
        ("password", 7),
        ("password", ""),
        ("password", None),
        ("ssl", "prefer"),
        ("ssl_root_cert", "root.pem"),
        ("ssl_key", "key.pem"),
        ("connection_name", ""),
        ("channels_per_connection", 0),
        ("channels_per_connection", 65536),
        ("publisher_confirms", 1),
        ("heartbeat", -1),
        ("heartbeat", 65535),
        ("heartbeat", 1.5),
        ("tcp_keepalive", 0),
        ("tcp_user_timeout", "30"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_option(option: str, value: object) -> None:
    """Whoever wrote it reads which option is wrong, at once."""
    with pytest.raises(ValueError, match=f"^{option}: "):
        RabbitMQDriver(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("amqp://", {}),
        ("amqp://mq", {"host": "mq"}),
        ("amqp://mq/", {"host": "mq"}),
        ("amqp://mq/%2F", {"host": "mq", "vhost": "/"}),
        ("amqp://mq/a%2Fb%20c", {"host": "mq", "vhost": "a/b c"}),
        (
            "amqp://ann:p%40ss@[::1]:5673/orders?heartbeat=7&name=mill&publisher_confirms=no",
            {
                "user": "ann", "password": "p@ss", "host": "::1", "port": 5673, "vhost": "orders",
                "heartbeat": 7, "connection_name": "mill", "publisher_confirms": False,
            },
        ),
        ("amqps://mq", {"host": "mq", "ssl": "verify-full"}),
        ("amqps://mq?ssl=require", {"host": "mq", "ssl": "require"}),
    ],
)  # fmt: skip
def test_a_url_says_options(url: str, options: dict[str, Any]) -> None:
    """Each part, percent signs decoded; what is not said is not there."""
    assert RabbitMQDriver.options_from_url(url) == options


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://ann:{NO_SECRET}@mq/?hartbeat=3",
        f"amqp://ann:{NO_SECRET}@mq/?heartbeat=often",
        f"amqp://ann:{NO_SECRET}@mq/?login=bob",
        f"amqps://ann:{NO_SECRET}@mq/?ssl=disable",
        f"redis://ann:{NO_SECRET}@mq/",
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_password(url: str) -> None:
    """The text may end up in a log."""
    with pytest.raises(ValueError, match="URL") as caught:
        RabbitMQDriver.options_from_url(url)

    assert NO_SECRET not in str(caught.value)


def test_sizes_in_a_configuration_count_connections() -> None:
    """One to five connections, fifty channels on each, unless it says otherwise; a pool lends channels."""
    plain = connection_config("mq", {"type": "rabbitmq"}).settings
    said = connection_config(
        "mq", {"url": "amqp://mq/?channels_per_connection=10", "pool_max_size": 3, "pool": {"max_idle": 2}}
    ).settings
    pool = create_pool("amqp://mq", max_size=2, channels_per_connection=4)

    assert (plain.min_size, plain.max_size) == (1, 250)
    assert (said.min_size, said.max_size, said.max_idle) == (1, 30, 20)
    assert pool.settings.max_size == 8


def test_settings_in_code_count_channels() -> None:
    """They are the pool's own words."""
    pool = create_pool("amqp://mq", settings=PoolSettings(max_size=7))

    assert pool.settings.max_size == 7


def test_an_unknown_key_of_a_configuration_is_named() -> None:
    """With the one that was meant."""
    with pytest.raises(ConfigError, match=r"hartbeat.*did you mean 'heartbeat'"):
        connection_config("mq", {"type": "rabbitmq", "hartbeat": 7})


@pytest.mark.parametrize(
    ("error", "is_permanent", "key"),
    [
        (aiormq.exceptions.ProbableAuthenticationError("x"), True, "password"),
        (Refused("NOT_ALLOWED - vhost x not found"), True, "vhost"),
        (aiormq.exceptions.ConnectionClosed(320, "CONNECTION_FORCED"), False, None),
        (aiormq.exceptions.ConnectionNotAllowed("channel limit"), False, None),
        (ConnectionRefusedError(), False, None),
    ],
)
def test_only_what_time_does_not_heal_is_permanent(
    error: Exception, is_permanent: bool, key: str | None
) -> None:
    """A wrong word of the configuration is, and which one; what the server does for a while is not."""
    driver = RabbitMQDriver(password="x")

    assert driver.is_permanent(error) is is_permanent
    assert driver.key_of(error) == key


def test_a_wrong_token_may_be_followed_by_a_better_one() -> None:
    """Where the password is a function, it may know more the next time."""
    driver = RabbitMQDriver(password=lambda: "token")

    assert not driver.is_permanent(aiormq.exceptions.ProbableAuthenticationError("x"))
