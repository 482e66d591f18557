"""The example of docs/gateway.md, served as it stands there, against real servers."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import redis

from tests.gateway import documented
from tests.gateway.backends import Postgres
from tests.gateway.service import Service
from tests.servers import RabbitMQServer, RedisServer

SECRETS = {
    "GITHUB_SECRET": "planted-github",
    "STRIPE_SECRET": "planted-stripe",
    "EVENTS_TOKEN": "planted-token",
}
REPLAYED = "idempotent-replayed"


@pytest.fixture(scope="module")
def service(
    postgres_backend: Postgres,
    redis_server: RedisServer,
    rabbitmq_server: RabbitMQServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    connections, hooks = documented.files()
    places = {"DB": postgres_backend.server, "REDIS": redis_server, "AMQP": rabbitmq_server}
    environ = {"DB_NAME": postgres_backend.database, **SECRETS}
    for name, server in places.items():
        environ |= {f"{name}_HOST": server.host, f"{name}_PORT": str(server.port)}
        environ |= {f"{name}_USER": server.user, f"{name}_PASSWORD": server.password}
    with Service(tmp_path_factory.mktemp("service"), connections, hooks, environ=environ) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.stderr
        assert "planted" not in running.stdout + running.stderr


def post(client: httpx2.Client, path: str, body: Any, **headers: str) -> httpx2.Response:
    """Send it signed by whatever it takes."""
    content = json.dumps(body).encode()
    at = int(time.time())
    github = hmac.new(SECRETS["GITHUB_SECRET"].encode(), content, hashlib.sha256).hexdigest()
    stripe = hmac.new(SECRETS["STRIPE_SECRET"].encode(), b"%d." % at + content, hashlib.sha256).hexdigest()
    signed = {
        "Content-Type": "application/json",
        "X-Hub-Signature-256": f"sha256={github}",
        "Stripe-Signature": f"t={at},v1={stripe}",
        "Authorization": f"Bearer {SECRETS['EVENTS_TOKEN']}",
    }
    return client.post(path, content=content, headers={**signed, **headers})


def test_github_s_events_become_rows_and_are_published_once(
    client: httpx2.Client, service: Service, postgres_backend: Postgres, redis_server: RedisServer
) -> None:
    event = {"action": "opened", "repository": {"full_name": "millpond/pond"}, "token": "planted"}
    delivery = {"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    with redis.Redis.from_url(redis_server.dsn(), decode_responses=True) as cache, cache.pubsub() as listener:
        listener.subscribe("github:millpond/pond")
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        answers = [post(client, "/webhook/github", event, **delivery) for _ in range(2)]
        heard = [listener.get_message(timeout=5), listener.get_message()]

    assert [(each.status_code, each.headers.get(REPLAYED)) for each in answers] == [
        (201, None),
        (201, "true"),
    ]
    assert answers[0].json() == {"stored": 2}
    assert postgres_backend.run("SELECT repository FROM github_events") == [('"millpond/pond"',)]
    assert json.loads(heard[0]["data"]) == event
    assert heard[1] is None
    assert "(action='opened', repository='millpond/pond')" in service.stderr
    assert post(client, "/webhook/github", event).status_code == 400


def test_stripe_s_events_are_known_by_their_id(
    client: httpx2.Client, postgres_backend: Postgres, rabbitmq_server: RabbitMQServer
) -> None:
    """The row is stored once; the message is published again, as the page says."""
    event = {"id": "evt_1", "type": "charge.succeeded"}
    answers = [post(client, "/webhook/stripe", event) for _ in range(2)]

    assert [each.status_code for each in answers] == [201, 201]
    assert postgres_backend.run("SELECT count(*) FROM payments") == [("1",)]
    assert rabbitmq_server.messages("payments") == 2
    assert post(client, "/webhook/stripe", {**event, "type": "other"}).status_code == 422
    assert post(client, "/webhook/stripe", event, **{"Stripe-Signature": "t=1,v1=ab"}).status_code == 401


def test_events_become_entries_of_a_stream(client: httpx2.Client, redis_server: RedisServer) -> None:
    event = {"id": "e-1", "source": "till"}
    kinds = {"Content-Type": "application/cloudevents+json"}
    answers = [post(client, "/events", event, **kinds, **{"Idempotency-Key": "e-1"}) for _ in range(2)]

    assert [(each.status_code, each.headers.get(REPLAYED)) for each in answers] == [
        (201, None),
        (201, "true"),
    ]
    with redis.Redis.from_url(redis_server.dsn(), decode_responses=True) as cache:
        ((_, fields),) = cache.xrange("events:till")
        assert (fields["id"], json.loads(fields["event"])) == ("e-1", event)
        assert cache.get("last:till") == "e-1"
        cache.flushdb()
    assert post(client, "/events", event, **{"Content-Type": "application/x+json"}).status_code == 415
    assert post(client, "/events", event, Authorization="Bearer x").status_code == 401
