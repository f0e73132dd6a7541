"""`reeltune dataset clips|statistics`: what a dataset holds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from reeltune.catalog.v1 import clip_service_pb2, sample_pb2, sample_service_pb2
from reeltune.catalog.v1 import dataset_statistics_pb2 as pb
from rich.console import Group
from rich.table import Table

from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.commands.options import LimitOption, all_pages
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import columns, facts, size, to_document

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Its name or id.", show_default=False)]
_SHOWN_NAMES = 8


class VisionFamily(StrEnum):
    """Families of models that differ in how many tokens a frame takes."""

    QWEN2_VL = "qwen2-vl"
    QWEN3_VL = "qwen3-vl"


async def clips(
    cli: Invocation,
    dataset: DatasetArgument,
    path: Annotated[str, typer.Argument(help="Only this clip, with where to look at it.", show_default=False)] = "",
    limit: LimitOption = 50,
) -> None:
    """List the clips that decoded, or show one of them with addresses that hold for 15 minutes."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        if path:
            request = clip_service_pb2.GetClipRequest(dataset_id=found.id, path=path)
            clip = (await client.clips.GetClip(request)).clip
            cli.answer({"clip": to_document(clip)}, _clip_view(clip))
            return
        asked = clip_service_pb2.ListClipsRequest(dataset_id=found.id)
        listed = await all_pages(client.clips.ListClips, asked, "clips", limit)
        rows = [
            (clip.path, f"{clip.duration_seconds:.2f} s", clip.frame_count, _rate(clip), f"{clip.width}x{clip.height}",
             clip.codec, clip.decoder, size(clip.size_bytes))
            for clip in listed
        ]  # fmt: skip
        table = columns(("PATH", "LENGTH", "FRAMES", "RATE", "SIZE", "CODEC", "DECODER", "BYTES"), rows)
        cli.answer({"clips": [to_document(clip) for clip in listed]}, table)


async def statistics(
    cli: Invocation,
    dataset: DatasetArgument,
    family: Annotated[
        VisionFamily, typer.Option(help="Count tokens as this family does; Qwen2.5-VL counts like qwen2-vl.")
    ] = VisionFamily.QWEN3_VL,
    max_frames: Annotated[int, typer.Option(help="Most frames taken from a clip.")] = 8,
    fps: Annotated[float, typer.Option(help="Frames a second, up to --max-frames; 0: spread evenly.")] = 0.0,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of a frame; 0: as the model's processor says.")] = 0,
) -> None:
    """Show lengths, sizes, answers and splits of a dataset, and the tokens that its frames would take."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        sampling = pb.VisualSampling(
            family=pb.VisionFamily.Value(f"VISION_FAMILY_{family.name}"),
            max_frames=max_frames,
            fps=fps,
            max_pixels=max_pixels,
        )
        request = sample_service_pb2.GetDatasetStatisticsRequest(dataset_id=found.id, sampling=sampling)
        numbers = (await client.samples.GetDatasetStatistics(request)).statistics
        cli.answer({"statistics": to_document(numbers)}, _view(numbers))


def _clip_view(clip: sample_pb2.Clip) -> Table:
    return facts(
        [
            ("path", clip.path),
            ("sha256", clip.sha256),
            ("bytes", f"{clip.size_bytes:,}"),
            ("length", f"{clip.duration_seconds:.3f} s, {clip.frame_count:,} frames, {_rate(clip)}"),
            ("size", f"{clip.width}x{clip.height}" + (f", turned by {clip.rotation}°" if clip.rotation else "")),
            ("codec", clip.codec),
            ("sound", "yes" if clip.has_audio else "no"),
            ("decoder", clip.decoder),
            ("damaged", f"{clip.damaged_frames:,} frames" if clip.damaged_frames else ""),
            ("kept", "in its owner's bucket" if clip.is_reference else ""),
            ("original", clip.url),
            ("poster", clip.poster_url),
            ("proxy", clip.proxy_url),
        ]
    )


def _rate(clip: sample_pb2.Clip) -> str:
    return f"{clip.fps:.2f} fps" + (", uneven" if clip.is_variable_frame_rate else "")


def _view(numbers: pb.DatasetStatistics) -> Group:
    spreads = [
        ("clip length, s", numbers.clip_seconds),
        ("clip frames", numbers.clip_frames),
        ("frames per second", numbers.clip_fps),
        ("answer, characters", numbers.answer_characters),
        ("frames, tokens", numbers.visual_tokens),
    ]
    names = facts(
        [
            ("rows by split", _named(numbers.splits)),
            ("clips by size", _named(numbers.resolutions)),
            ("clips by codec", _named(numbers.codecs)),
            ("rows by tag", _named(numbers.tags, numbers.tag_count)),
        ]
    )
    table = columns(("", "COUNT", "MIN", "5%", "HALF", "95%", "MAX", "MEAN"), [_row(*spread) for spread in spreads])
    return Group(table, names)


def _row(title: str, spread: pb.Distribution) -> tuple[object, ...]:
    at = {round(quantile.share, 2): quantile.value for quantile in spread.quantiles}
    numbers = (spread.minimum, at.get(0.05, 0.0), at.get(0.5, 0.0), at.get(0.95, 0.0), spread.maximum, spread.mean)
    return title, f"{spread.count:,}", *(f"{number:,.2f}".rstrip("0").rstrip(".") for number in numbers)


def _named(counts: Sequence[pb.NamedCount], total: int = 0) -> str:
    """The first names; `total` is how many there are, if that is more than are listed."""
    shown = ", ".join(f"{each.name} {each.count:,}" for each in counts[:_SHOWN_NAMES])
    more = max(total, len(counts)) - _SHOWN_NAMES
    return shown if more <= 0 else f"{shown}, and {more:,} more"
