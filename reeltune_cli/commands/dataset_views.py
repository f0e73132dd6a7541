"""`reeltune dataset statistics`: what a dataset holds, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from reeltune.catalog.v1 import dataset_statistics_pb2 as pb
from reeltune.catalog.v1 import sample_service_pb2
from rich.console import Group

from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.invocation import Invocation
from reeltune_cli.tables import columns, facts, to_document

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Its name or id.", show_default=False)]
_SHOWN_NAMES = 8


class VisionFamily(StrEnum):
    """Families of models that differ in how many tokens a frame takes."""

    QWEN2_VL = "qwen2-vl"
    QWEN3_VL = "qwen3-vl"


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
        ]
    )
    table = columns(("", "COUNT", "MIN", "5%", "HALF", "95%", "MAX", "MEAN"), [_row(*spread) for spread in spreads])
    return Group(table, names)


def _row(title: str, spread: pb.Distribution) -> tuple[object, ...]:
    at = {round(quantile.share, 2): quantile.value for quantile in spread.quantiles}
    numbers = (spread.minimum, at.get(0.05, 0.0), at.get(0.5, 0.0), at.get(0.95, 0.0), spread.maximum, spread.mean)
    return title, f"{spread.count:,}", *(f"{number:,.2f}".rstrip("0").rstrip(".") for number in numbers)


def _named(counts: Sequence[pb.NamedCount]) -> str:
    shown = ", ".join(f"{each.name} {each.count:,}" for each in counts[:_SHOWN_NAMES])
    return shown if len(counts) <= _SHOWN_NAMES else f"{shown}, and {len(counts) - _SHOWN_NAMES} more"
