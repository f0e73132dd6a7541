"""Typed messages between a child process (training or inference) and the process that started it.

Each travels as a 4-byte big-endian length and that many bytes of JSON, over a stream socket whose
descriptor the child inherits: nothing is pickled, a reader of any kind (thread, asyncio) can follow,
and the death of either side is an end of file for the other. Standard library only.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class MessageError(ValueError):
    """Bytes that are no message of this protocol: the peer is another version or has gone mad."""


class StopReason(StrEnum):
    USER = "user"
    """The owner asked: keep the adapter made so far."""
    DRAIN = "drain"
    """The machine is going away: checkpoint, so that another attempt goes on."""


class FailureReason(StrEnum):
    BAD_SPEC = "BAD_SPEC"
    BAD_DATA = "BAD_DATA"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NON_FINITE_LOSS = "NON_FINITE_LOSS"
    MODEL_UNSUPPORTED = "MODEL_UNSUPPORTED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    """The disk is full or does not work."""
    CHECKPOINT_MISMATCH = "CHECKPOINT_MISMATCH"
    RANK_LOST = "RANK_LOST"
    """One of the processes of a run on several devices is gone."""
    DECODER_LOST = "DECODER_LOST"
    """A decode process did not start, on a machine whose decoder worked when it was probed."""
    DEVICE_LOST = "DEVICE_LOST"
    """The accelerator reported a fault: nothing that this process asks of it will work again."""
    BAD_REQUEST = "BAD_REQUEST"
    """Inference only: this one request cannot be answered; the child lives on."""
    BAD_CLIP = "BAD_CLIP"
    """Inference only: as BAD_REQUEST, for the clip gives no frames."""
    INTERNAL = "INTERNAL"


# Training child, upwards.


@dataclass(frozen=True, slots=True)
class Starting:
    """A phase before the first step has begun. Phases come in this order."""

    phase: str
    """`dataset`, `model`, `adapter`, `resume` (only with a checkpoint), `initialization` (only without one, where it
    takes time) or `first_step`."""


@dataclass(frozen=True, slots=True)
class Started:
    """Everything is in place; the first micro-step follows."""

    total_steps: int
    start_step: int
    """Steps already done, by the checkpoint the run goes on from; 0 when new."""
    trainable_parameters: int
    total_parameters: int
    samples: int
    eval_samples: int
    device: str
    decoder: str
    quantized_layers: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of the optimizer is done. Sent after every step."""

    step: int
    total_steps: int
    epoch: int
    """Counted from 0."""
    fraction: float
    """Share of all steps done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of the steps since the last such message, as means unless the name says otherwise."""

    step: int
    values: dict[str, float]
    """Training: loss, learning_rate, grad_norm, samples_per_second, tokens_per_second, clips_per_second,
    data_wait_fraction, step_seconds and of these data_seconds, forward_seconds, backward_seconds, optimizer_seconds,
    peak_memory_bytes, encoder_cache_hit_fraction. Evaluation: eval_loss, eval_seconds."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """Answers to held-out samples at one evaluation, each an object of sample_id, question, expected, generated, loss
    and is_cut."""

    step: int
    best: list[dict[str, Any]]
    """Lowest loss first."""
    worst: list[dict[str, Any]]
    """Highest loss first."""


@dataclass(frozen=True, slots=True)
class Log:
    level: str
    """`debug`, `info`, `warning` or `error`."""
    text: str


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    step: int
    path: str
    """The finished folder, its `manifest.json` included."""
    eval_loss: float | None = None
    """Loss on the held-out samples at this very step, if it was measured."""


@dataclass(frozen=True, slots=True)
class Completed:
    """Every step is done and the adapter is whole. Last message."""

    adapter_dir: str
    manifest: dict[str, Any]
    """`{"files": [{"path", "size", "sha256"}]}` of the adapter folder."""
    steps: int
    final_loss: float
    early_end: str = ""
    """Why it ended before its last step; empty when it did not."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Stopped at a step boundary as asked. Last message."""

    reason: StopReason
    step: int
    adapter_dir: str | None
    """None for a drain, and when no step was done."""
    checkpoint: str | None
    manifest: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up. Last message."""

    reason: FailureReason
    message: str
    """What is wrong and where."""
    next_step: str
    """What the owner can do about it."""


@dataclass(frozen=True, slots=True)
class Idle:
    """From a child that takes one job after the other: nothing of the last one is left, another may come."""


# Training child, downwards.


@dataclass(frozen=True, slots=True)
class Stop:
    reason: StopReason


@dataclass(frozen=True, slots=True)
class Train:
    """To a child that takes one job after the other: train the job in this folder."""

    job: str


# Inference child, upwards.


@dataclass(frozen=True, slots=True)
class InferenceReady:
    """The base model is loaded; requests may come (they may also be sent before)."""

    device: str
    base_fingerprint: str


@dataclass(frozen=True, slots=True)
class TokenText:
    """The next piece of an answer. Pieces in order make up the whole text."""

    request_id: str
    text: str
    of_base: bool = False
    """In an answer side by side: the base model says it."""


@dataclass(frozen=True, slots=True)
class SideDone:
    """One of two answers side by side has ended; `GenerationDone` follows the later one."""

    request_id: str
    of_base: bool
    prompt_tokens: int
    generated_tokens: int
    finish: str


@dataclass(frozen=True, slots=True)
class GenerationDone:
    request_id: str
    prompt_tokens: int
    generated_tokens: int
    finish: str
    """`stop` (the model ended it), `length` (max_new_tokens reached) or `cancelled`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    request_id: str
    reason: FailureReason
    message: str
    next_step: str


# Inference child, downwards.


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer a question about a clip. Requests are served one at a time, in the order in which they come."""

    request_id: str
    prompt: str
    clip: str | None = None
    """Path of a video file; None for a question without one."""
    adapter_dir: str | None = None
    """Folder of a trained adapter; None: the base model as it is."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Fields of `SamplingSpec`."""
    max_new_tokens: int = 128
    temperature: float = 0.0
    """0: greedy."""
    seed: int = 0
    beside_base: bool = False
    """The base model answers, too, one token of each in turn; needs an adapter."""


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


TrainingUp = (
    Starting | Started | Progress | Metrics | Predicted | Log | CheckpointSaved | Completed | Stopped | Failed | Idle
)
TrainingDown = Stop | Train
InferenceUp = InferenceReady | TokenText | SideDone | GenerationDone | GenerationFailed | Log | Failed
InferenceDown = Generate | Cancel
Message = TrainingUp | TrainingDown | InferenceUp | InferenceDown

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(
            Starting,
            Started,
            Progress,
            Metrics,
            Predicted,
            Log,
            CheckpointSaved,
            Completed,
            Stopped,
            Failed,
            Idle,
            Stop,
            Train,
        ),
        *(InferenceReady, TokenText, SideDone, GenerationDone, GenerationFailed, Generate, Cancel),
    )
}
_ENUMS: dict[tuple[str, str], type[StrEnum]] = {
    ("Stopped", "reason"): StopReason,
    ("Stop", "reason"): StopReason,
    ("Failed", "reason"): FailureReason,
    ("GenerationFailed", "reason"): FailureReason,
}


def encode(message: Message) -> bytes:
    """`message` framed for the stream. Raises `MessageError` past MAX_MESSAGE_BYTES."""
    # Not-a-number is no JSON; a message that carried one would be refused by the other side's parser.
    body = json.dumps({"kind": type(message).__name__, **asdict(message)}, allow_nan=False).encode()
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageError(f"{type(message).__name__} takes {len(body)} bytes, more than {MAX_MESSAGE_BYTES}")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """The message in one frame's body (without its length). Raises `MessageError`."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise MessageError(f"not JSON: {error}") from error
    if not isinstance(value, Mapping) or value.get("kind") not in _KINDS:
        raise MessageError(f"no known kind of message: {body[:80]!r}")
    name = value["kind"]
    kind = _KINDS[name]
    known = {entry.name for entry in fields(kind)}
    arguments = {key: entry for key, entry in value.items() if key in known}
    try:
        converted = {
            key: _ENUMS[name, key](entry) if (name, key) in _ENUMS else entry for key, entry in arguments.items()
        }
        message: Message = kind(**converted)
    except (TypeError, ValueError) as error:
        raise MessageError(f"bad {name}: {error}") from error
    return message


class MessageSocket:
    """Blocking reads and writes of messages on a connected stream socket.

    One thread may read while others write; writers take turns by the caller's own lock.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    @classmethod
    def from_fd(cls, fd: int) -> MessageSocket:
        """Takes over an inherited descriptor of a connected stream socket."""
        return cls(socket.socket(fileno=fd))

    def send(self, message: Message) -> None:
        """Writes one message. Raises `OSError` when the peer is gone."""
        self._stream.sendall(encode(message))

    def receive(self) -> Message | None:
        """The next message, or None once the peer has closed. Raises `MessageError` on a broken frame."""
        header = self._read(_LENGTH.size)
        if header is None:
            return None
        body = self._read(_body_length(header))
        return None if body is None else decode(body)

    def close(self) -> None:
        self._stream.close()

    def _read(self, count: int) -> bytes | None:
        chunks = bytearray()
        while len(chunks) < count:
            try:
                chunk = self._stream.recv(count - len(chunks))
            except ConnectionError:
                return None
            if not chunk:
                return None
            chunks += chunk
        return bytes(chunks)


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message from a child, or None once it has closed. Raises `MessageError` on a broken frame."""
    try:
        header = await reader.readexactly(_LENGTH.size)
        return decode(await reader.readexactly(_body_length(header)))
    except (EOFError, ConnectionError):  # IncompleteReadError is an EOFError; children start faster without asyncio
        return None


def _body_length(header: bytes) -> int:
    (length,) = _LENGTH.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise MessageError(f"a frame of {length} bytes is more than {MAX_MESSAGE_BYTES}")
    return int(length)
