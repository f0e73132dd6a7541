"""Work queues: each message to one consumer, once published it stays until somebody acknowledges it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    Header,
    PubAck,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from meshkit.cancellation import heard
from meshkit.jetstream.connection import JetStream, NatsUnavailable

_TROUBLE = (nats.errors.Error, ConnectionError, TimeoutError)
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message taken from a work queue."""

    subject: str
    payload: bytes
    msg_id: str
    """The publisher's `Nats-Msg-Id`."""
    attempt: int
    """1 for the first delivery of this message."""
    _message: Msg

    async def ack(self) -> None:
        """Removes the message from the queue; returns when the server has confirmed it.

        Raises:
            NatsUnavailable: no confirmation; the message may be delivered again.
        """
        try:
            await heard(self._message.ack_sync(timeout=5))
        except _TROUBLE as error:
            raise NatsUnavailable(f"the acknowledgement was not confirmed: {type(error).__name__}") from error

    async def retry_later(self, delay_seconds: float) -> None:
        """Gives the message back, to be delivered again after the delay.

        Raises:
            NatsUnavailable: the connection is gone; the message is delivered again when its acknowledgement is overdue.
        """
        try:
            await heard(self._message.nak(delay=delay_seconds))
        except _TROUBLE as error:
            raise NatsUnavailable(f"the message could not be given back: {type(error).__name__}") from error


async def ensure_work_queue(
    jetstream: JetStream, stream: str, subjects: Sequence[str], *, max_bytes: int = 256 * 1024 * 1024
) -> None:
    """Creates the stream, or brings an existing one to this configuration.

    Full, it refuses new messages and drops no old ones; nothing expires by age.

    Raises:
        NatsUnavailable: NATS does not answer.
    """
    config = StreamConfig(
        name=stream,
        subjects=list(subjects),
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        max_bytes=max_bytes,
        # Only catches a publisher's own quick retries: ids are made so that a wanted second message has another.
        duplicate_window=120,
    )
    context = jetstream.context()
    try:
        try:
            await heard(context.add_stream(config))
        except nats.js.errors.BadRequestError:  # exists with another configuration
            await heard(context.update_stream(config))
    except _TROUBLE as error:
        raise NatsUnavailable(f"stream {stream} could not be made: {error!r}") from error


async def ensure_consumer(
    jetstream: JetStream, stream: str, durable: str, subject: str, *, ack_wait_seconds: float = 15
) -> None:
    """Creates the durable pull consumer that all workers of one subject share.

    Raises:
        NatsUnavailable: NATS does not answer, or the stream is not there.
    """
    config = ConsumerConfig(
        name=durable,
        durable_name=durable,
        filter_subject=subject,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait_seconds,
        # Without a limit: after the last delivery a work-queue message would stay in the stream, invisible.
        max_deliver=-1,
    )
    try:
        await heard(jetstream.context().add_consumer(stream, config))
    except _TROUBLE as error:
        raise NatsUnavailable(f"consumer {durable} could not be made: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Message:
    """A message for a work queue."""

    subject: str
    payload: bytes
    msg_id: str
    """A repetition of it within two minutes is taken for a retry and dropped by the server."""


async def publish(jetstream: JetStream, subject: str, payload: bytes, *, msg_id: str) -> None:
    """Publishes one message and returns when it is on the server's disk.

    Raises:
        NatsUnavailable: no confirmation, or the queue is full; the message may or may not be there.
    """
    (trouble,) = await publish_all(jetstream, [Message(subject, payload, msg_id)])
    if trouble is not None:
        raise trouble


async def publish_all(
    jetstream: JetStream, messages: Sequence[Message], *, timeout_seconds: float = 5
) -> Sequence[NatsUnavailable | None]:
    """Publishes messages and waits until the server has said of each whether it is on its disk.

    They go out one right behind the other: the server brings many to its disk in the time of one.
    Returns for each None, or why it was not confirmed: it may or may not be there.
    """
    pending: list[asyncio.Future[PubAck] | NatsUnavailable] = []
    for message in messages:
        try:
            context = jetstream.context(timeout_seconds)
            headers = {Header.MSG_ID: message.msg_id}
            pending.append(await heard(context.publish_async(message.subject, message.payload, headers=headers)))
        except NatsUnavailable as error:
            pending.append(error)
        except _TROUBLE as error:
            pending.append(_not_confirmed(message, error))
    # Waited for together: a timer for each would cost more than the message.
    confirmations = [each for each in pending if not isinstance(each, NatsUnavailable)]
    try:
        if confirmations:
            await asyncio.wait(confirmations, timeout=timeout_seconds)
    finally:
        for confirmation in confirmations:
            confirmation.cancel()  # nobody waits any longer
    return [
        each if isinstance(each, NatsUnavailable) else _outcome(message, each)
        for message, each in zip(messages, pending, strict=True)
    ]


def _outcome(message: Message, confirmation: asyncio.Future[PubAck]) -> NatsUnavailable | None:
    if confirmation.cancelled():
        return _not_confirmed(message, TimeoutError())
    error = confirmation.exception()
    return None if error is None else _not_confirmed(message, error)


def _not_confirmed(message: Message, error: BaseException) -> NatsUnavailable:
    trouble = NatsUnavailable(f"publishing to {message.subject} was not confirmed: {error!r}")
    trouble.__cause__ = error
    return trouble


async def pull(
    jetstream: JetStream, stream: str, durable: str, *, timeout_seconds: float = 5
) -> AsyncIterator[Delivery]:
    """Yields messages for ever, one at a time; asks for the next one only when the caller does.

    Waits while NATS is away. After a broker restart it subscribes anew: a pull that was open then never answers,
    which is why each one also has a timeout on this side.
    """
    subscription: JetStreamContext.PullSubscription | None = None
    generation = -1
    try:
        while True:
            await jetstream.wait_connected()
            try:
                if subscription is None or generation != jetstream.generation:
                    generation = jetstream.generation
                    subscription = await heard(jetstream.context().pull_subscribe_bind(durable, stream))
                # Twice the time on this side: the server's own expiry comes first as long as there is a server.
                async with asyncio.timeout(timeout_seconds * 2):
                    messages = await heard(subscription.fetch(1, timeout=timeout_seconds))
            except nats.errors.TimeoutError:
                continue
            except (*_TROUBLE, NatsUnavailable) as error:
                structlog.get_logger().warning("nats.pull_failed", stream=stream, cause=repr(error))
                subscription = None
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            for message in messages:
                yield _delivery(message)
    finally:
        if subscription is not None and jetstream.is_connected and generation == jetstream.generation:
            await subscription.unsubscribe()


def _delivery(message: Msg) -> Delivery:
    return Delivery(
        subject=message.subject,
        payload=message.data,
        msg_id=(message.headers or {}).get(Header.MSG_ID, ""),
        attempt=message.metadata.num_delivered,
        _message=message,
    )
