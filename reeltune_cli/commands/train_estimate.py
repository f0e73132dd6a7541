"""`reeltune train estimate`: what a job will take, before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer
from reeltune.scheduler.v1 import estimate_service_pb2 as pb
from reeltune.scheduler.v1 import worker_pb2
from rich.console import Group, RenderableType

from reeltune_cli.amounts import read_size
from reeltune_cli.client import ClientError
from reeltune_cli.commands.job_request import Device, device_class, read_job_request, taking
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import columns, count, enum_word, size, to_document


@taking(read_job_request)
async def estimate(
    cli: Invocation,
    /,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="CLASS:MEMORY",
            help="Another device, such as cuda:24GB or jetson:8GB; may be repeated.",
            show_default=False,
        ),
    ] = None,
    **options: Any,
) -> None:
    """Estimate a job's tokens, memory and time, and what would fit; takes the options of `train start`."""
    named = [_named(text) for text in on or ()]
    async with cli.client() as client:
        job = await read_job_request(client, **options)
        if job.device_memory_bytes:
            wanted = job.device_class or device_class(Device.CUDA)
            named.append(pb.NamedDevice(device_class=wanted, memory_bytes=job.device_memory_bytes))
        request = pb.EstimateTrainingJobRequest(
            model_id=job.model_id,
            dataset_id=job.dataset_id,
            parameters=job.parameters,
            device_class=job.device_class,
            devices=named,
            device_count=job.device_count,
        )
        found = await client.estimates.EstimateTrainingJob(request)
        cli.answer({"estimate": to_document(found)}, _text(found))


def _named(text: str) -> pb.NamedDevice:
    kind, _, memory = text.partition(":")
    try:
        chosen = Device(kind.lower())
    except ValueError:
        chosen = Device.ANY
    if chosen is Device.ANY or not memory:
        raise ClientError(f"{text!r} is not CLASS:MEMORY", "OPTION_INVALID", "for instance --on cuda:24GB")
    return pb.NamedDevice(device_class=device_class(chosen), memory_bytes=read_size(memory))


def _text(found: pb.EstimateTrainingJobResponse) -> RenderableType:
    lines = [f"{found.trained_parameters:,} numbers are trained"]
    if found.HasField("tokens"):
        tokens = found.tokens
        most = "at most " if tokens.is_upper_bound else ""
        lines.append(
            f"a row is {most}{tokens.max_visual_tokens:,} visual tokens and some {tokens.max_text_tokens:,} of words "
            f"({count(tokens.max_frames, 'frame')})"
        )
        if tokens.rows_over_context:
            lines.append(
                f"up to {count(tokens.rows_over_context, 'row')} exceed the model's {tokens.context_length:,} tokens"
            )
    else:
        lines.append("its tokens are not known: activations are not counted")
    table = columns(("DEVICE", "TRAINERS", "FITS", "NEEDS", "MADE OF", "TIME", "WOULD FIT"), _rows(found.devices))
    return Group(*lines, table)


def _rows(devices: Iterable[pb.DeviceEstimate]) -> Iterable[tuple[str, ...]]:
    for each in devices:
        memory = f" {size(each.memory_bytes)}" if each.memory_bytes else ""
        kind = enum_word(worker_pb2.DeviceClass, each.device_class, "DEVICE_CLASS_")
        fit = "?" if each.fit == pb.FIT_UNSPECIFIED else enum_word(pb.Fit, each.fit, "FIT_")
        parts = sorted(each.parts, key=lambda part: -part.size_bytes)[:4]
        made_of = ", ".join(
            f"{enum_word(pb.MemoryPart, part.part, 'MEMORY_PART_').replace('_', ' ')} {size(part.size_bytes)}"
            for part in parts
        )
        yield kind + memory, ", ".join(each.trainers), fit, size(each.total_bytes), made_of, _time(each), _fitting(each)


def _time(each: pb.DeviceEstimate) -> str:
    if not each.HasField("time"):
        return ""
    minutes, seconds = divmod(round(each.time.total_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    length = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
    return f"{length}, mostly {enum_word(pb.Effort, each.time.dominant, 'EFFORT_')}"


def _fitting(each: pb.DeviceEstimate) -> str:
    if not each.HasField("suggestion"):
        return ""
    wanted = each.suggestion
    pixels = f", max_pixels {wanted.max_pixels}" if wanted.max_pixels else ""
    return f"max_frames {wanted.max_frames}{pixels}, batch_size {wanted.batch_size}"
