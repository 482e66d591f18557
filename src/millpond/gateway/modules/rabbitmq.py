"""A request becomes a message at RabbitMQ, published with a confirm.

Safe means that the server has confirmed it: every queue that it was routed to
has it, durable queues on disk. A message that is routed to no queue is not
safe, and so an error, unless the hook says `"mandatory": false`.

A request's own key becomes the `message_id`, and that is all that can be
promised: RabbitMQ does not look at it, so a retry is published again, and so
is a message whose confirm was lost on the way. Consumers that mind can tell
by the `message_id`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiormq import exceptions, spec

from millpond.errors import describe
from millpond.gateway.idempotency import Keeping
from millpond.gateway.module_models import RabbitMQModule
from millpond.gateway.pointer import Received, Template, encoded, source
from millpond.gateway.refusals import Fault, NotStored, Outcome

if TYPE_CHECKING:
    from millpond.drivers.rabbitmq import RabbitMQChannel

_LONGEST_NAME: Final = 255  # bytes; what AMQP calls a short string
_PERSISTENT, _TRANSIENT = 2, 1
_UNSAYABLE: Final = "may hold only letters, digits, spaces and - _ . : @ # , / +, and not be too long"
_MISFIT: Final = (
    exceptions.ChannelAccessRefused,
    exceptions.ChannelNotFoundEntity,
    exceptions.ChannelPreconditionFailed,
)


class RabbitMQMessages:
    """This publishes each request as one message.

    Raises:
        ValueError: the client library cannot say the exchange's name, or that of the queue to create.
    """

    kind = "rabbitmq"

    def __init__(self, model: RabbitMQModule, keeping: Keeping | None = None) -> None:
        # A retry is published again, whatever is kept: see the module.
        self.connection = model.connection
        self.timeout = model.timeout
        self._model = model
        # The exchange without a name routes to the queue that the routing key names.
        self._exchange = model.exchange or ""
        name = model.queue or model.routing_key or ""
        self._routing_key = Template(name)
        self._value = source(model.value)
        self._is_senders_choice = "{/" in name
        if model.exchange is not None and not _can_be_said(spec.Basic.Publish, exchange=model.exchange):
            raise ValueError(f"exchange: its name {_UNSAYABLE}")
        is_known = model.create_queue and not self._is_senders_choice
        if is_known and not _can_be_said(spec.Queue.Declare, queue=name):
            raise ValueError(f"queue: the name of one that is created {_UNSAYABLE}")

    async def store(self, conn: RabbitMQChannel, received: Received) -> Outcome:
        """Publish it; the server has confirmed it when this returns."""
        if not conn.publisher_confirms:
            raise NotStored(Fault.MISFIT, "publisher_confirms is off: nothing could be promised")
        message = self._message_of(received)
        if await self._publish(conn, message):
            return Outcome.DONE
        if self._model.create_queue:
            if not _can_be_said(spec.Queue.Declare, queue=message.routing_key):
                raise NotStored(Fault.UNFIT, f"there is no such queue, and its name {_UNSAYABLE}")
            lane = await conn.get_underlay_channel()
            await lane.queue_declare(message.routing_key, durable=True)
            if await self._publish(conn, message):
                return Outcome.DONE
        fault = Fault.UNFIT if self._is_senders_choice else Fault.MISFIT
        raise NotStored(fault, "the message was routed to no queue")

    async def _publish(self, conn: RabbitMQChannel, message: _Message) -> bool:
        """False: it came back, for no queue takes it."""
        # Past aio-pika's own `publish`, which would write the message to its log at level DEBUG.
        lane = await conn.get_underlay_channel()
        answer = await lane.basic_publish(
            message.body,
            exchange=self._exchange,
            routing_key=message.routing_key,
            properties=message.properties,
            mandatory=self._model.mandatory,
        )
        return isinstance(answer, spec.Basic.Ack)

    def explain(self, error: Exception) -> NotStored:
        """What an error of `store` means; of the server's words only those that hold no values."""
        if isinstance(error, UnicodeError):
            return NotStored(Fault.UNFIT, type(error).__name__)
        if isinstance(error, exceptions.DeliveryError):
            return NotStored(Fault.AWAY, "the server refused the message: a queue is full, or failed")
        if isinstance(error, _MISFIT):
            return NotStored(Fault.MISFIT, describe(error))
        is_away = isinstance(error, exceptions.AMQPError | exceptions.ChannelInvalidStateError | OSError)
        return NotStored(Fault.AWAY if is_away else Fault.MISFIT, describe(error))

    def _routing_key_of(self, received: Received) -> str:
        name = self._routing_key.filled(received)
        if len(name.encode()) > _LONGEST_NAME:
            raise NotStored(Fault.UNFIT, f"the name is longer than {_LONGEST_NAME} bytes")
        return name

    def _message_of(self, received: Received) -> _Message:
        value = self._value(received)
        body = encoded(value)
        if body is None:
            raise NotStored(Fault.UNFIT, "the pointer finds nothing in the body")
        properties = spec.Basic.Properties(
            content_type="text/plain" if isinstance(value, str) else "application/json",
            content_encoding="utf-8",
            delivery_mode=_PERSISTENT if self._model.persistent else _TRANSIENT,
            message_id=received.key,
        )
        return _Message(self._routing_key_of(received), body, properties)


def _can_be_said(command: Callable[..., object], **names: str) -> bool:
    """Whether the library can send a command with these names: it takes fewer letters than the server."""
    try:
        command(**names)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Message:
    """What is published."""

    routing_key: str
    body: bytes
    properties: spec.Basic.Properties
