from __future__ import annotations

import asyncio
import math
import socket
import struct

import pytest

from trainer_svc.qlora import messages
from trainer_svc.qlora.messages import (
    Failed,
    FailureReason,
    Generate,
    Log,
    Message,
    MessageError,
    MessageSocket,
    Metrics,
    Progress,
    SideDone,
    Started,
    Stop,
    Stopped,
    StopReason,
    TokenText,
)

EXAMPLES: list[Message] = [
    Started(10, 0, 5, 50, 8, 2, "CPU", "decord", 14),
    Progress(1, 10, 0, 0.1),
    Metrics(1, {"loss": 1.5}),
    Log("info", "ünïcode ✓"),
    Stopped(StopReason.USER, 3, "/out/adapter", "/out/checkpoints/step-3", {"files": []}),
    Stopped(StopReason.DRAIN, 0, None, None, None),
    Failed(FailureReason.BAD_DATA, "sample s1", "fix it"),
    Stop(StopReason.DRAIN),
    Generate("r1", "what?", clip="/a.mp4", sampling={"max_frames": 4}),
    TokenText("r1", "a"),
    TokenText("r1", "a", of_base=True),
    SideDone("r1", True, 5, 1, "stop"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was_sent(message: Message) -> None:
    assert messages.decode(messages.encode(message)[4:]) == message


def test_messages_cross_a_socket_in_order_until_it_closes() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = MessageSocket(ours), MessageSocket(theirs)
    for message in EXAMPLES:
        sender.send(message)
    sender.close()
    assert [receiver.receive() for _ in EXAMPLES] == EXAMPLES
    assert receiver.receive() is None


async def test_asyncio_reads_the_same_stream() -> None:
    ours, theirs = socket.socketpair()
    sender = MessageSocket(theirs)
    for message in EXAMPLES:
        sender.send(message)
    sender.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    assert [await messages.read_message(reader) for _ in EXAMPLES] == EXAMPLES
    assert await messages.read_message(reader) is None
    writer.close()


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"{}", b'{"kind": "Unknown"}', b'{"kind": "Progress"}', b'{"kind":"Stop","reason":"x"}'],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(MessageError):
        messages.decode(body)


def test_unknown_fields_of_a_newer_peer_are_passed_over() -> None:
    assert messages.decode(b'{"kind": "Log", "level": "info", "text": "t", "later": 1}') == Log("info", "t")


def test_a_frame_that_claims_gigabytes_is_refused_unread() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(struct.pack(">I", 2**31))
    with pytest.raises(MessageError, match="more than"):
        MessageSocket(theirs).receive()
    ours.close()
    theirs.close()


def test_a_message_cut_short_reads_as_the_end() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(messages.encode(Log("info", "text"))[:-2])
    ours.close()
    assert MessageSocket(theirs).receive() is None
    theirs.close()


def test_not_a_number_never_leaves() -> None:
    with pytest.raises(ValueError, match="JSON"):
        messages.encode(Metrics(1, {"loss": math.nan}))
