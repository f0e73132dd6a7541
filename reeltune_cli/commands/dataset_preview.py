"""`reeltune dataset samples|preview`: what a dataset's samples say, and what a model will see of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from reeltune.catalog.v1 import dataset_content_pb2 as content
from reeltune.catalog.v1 import sample_pb2
from reeltune.catalog.v1 import sample_preview_pb2 as pb
from reeltune.catalog.v1.sample_service_pb2 import GetSamplePreviewRequest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from reeltune_cli.client import Client, ClientError
from reeltune_cli.commands.dataset_views import DatasetArgument
from reeltune_cli.commands.naming import find_dataset, find_model
from reeltune_cli.commands.options import LimitOption, all_pages
from reeltune_cli.invocation import Invocation, printable
from reeltune_cli.tables import columns, facts, to_document

_PREVIEW_SECONDS = 120
_CELL = 60


async def samples(
    cli: Invocation,
    dataset: DatasetArgument,
    split: Annotated[str, typer.Option("--split", help="Only samples of this split.", show_default=False)] = "",
    tag: Annotated[str, typer.Option("--tag", help="Only samples with this tag.", show_default=False)] = "",
    limit: LimitOption = 50,
) -> None:
    """List a dataset's samples: their ids, clips, questions, answers and tags."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        request = content.ListSamplesRequest(dataset_id=found.id, split=split, tag=tag, page_size=min(limit, 1000))
        rows = await all_pages(client.datasets.ListSamples, request, "samples", limit)
        table = columns(("SAMPLE", "SPLIT", "CLIPS", "ASKED", "ANSWERED", "TAGS"), (_row(sample) for sample in rows))
        cli.answer({"samples": [to_document(sample) for sample in rows]}, table)


async def preview(
    cli: Invocation,
    dataset: DatasetArgument,
    model: Annotated[str, typer.Option("--model", help="The model's name or id.", show_default=False)],
    sample: Annotated[
        str | None, typer.Option("--sample", help="The sample's id; by default the first one.", show_default=False)
    ] = None,
    to: Annotated[Path, typer.Option("--to", file_okay=False, help="The folder for the frames.")] = Path("preview"),
    max_frames: Annotated[int | None, typer.Option(help="Most frames of a clip.", show_default="8")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second.", show_default="0: spread evenly")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Most pixels of a frame.", show_default="0: as the model has it")
    ] = None,
    show_frames: Annotated[int, typer.Option(help="Most frames to write, of all clips together.")] = 16,
) -> None:
    """Show what training would feed a model for one sample: frames into a folder, tokens, and what is learned."""
    async with cli.client() as client:
        found = await find_dataset(client, dataset)
        request = GetSamplePreviewRequest(
            dataset_id=found.id,
            sample_id=sample or await _first_sample(client, found.id),
            model_id=(await find_model(client, model)).id,
            max_frames=max_frames,
            fps=fps,
            max_pixels=max_pixels,
            max_preview_frames=show_frames,
        )
        made = (await client.samples.GetSamplePreview(request, timeout=_PREVIEW_SECONDS)).preview
        files = _write_frames(made, to)
        cli.answer({"preview": _document(made, files)}, _view(request.sample_id, made, to))


async def _first_sample(client: Client, dataset_id: str) -> str:
    answer = await client.datasets.ListSamples(content.ListSamplesRequest(dataset_id=dataset_id, page_size=1))
    if not answer.samples:
        raise ClientError("the dataset holds no sample", "SAMPLE_NOT_FOUND", "choose another dataset")
    return str(answer.samples[0].sample_id)


def _row(sample: sample_pb2.Sample) -> tuple[str, ...]:
    parts = [(message.role, part) for message in sample.messages for part in message.content]
    clips = ", ".join(part.video.path for _, part in parts if part.HasField("video"))
    said = {
        role: " ".join(part.text for speaker, part in parts if speaker == role and part.text).split()
        for role in ("user", "assistant")
    }
    words = [" ".join(said[role])[:_CELL] for role in ("user", "assistant")]
    return (sample.sample_id, sample.split, clips[:_CELL], *words, ", ".join(sample.tags)[:_CELL])


def _write_frames(made: pb.SamplePreview, to: Path) -> list[list[str]]:
    """Writes the frames of each clip and returns the files' names by clip; raises OSError."""
    to.mkdir(parents=True, exist_ok=True)
    names: list[list[str]] = []
    for number, clip in enumerate(made.clips, 1):
        names.append([])
        for frame in clip.frames:
            name = f"clip{number}-{frame.position:03d}-{frame.time_seconds:.3f}s.jpg"
            (to / name).write_bytes(frame.jpeg)
            names[-1].append(str(to / name))
    return names


def _document(made: pb.SamplePreview, files: list[list[str]]) -> dict[str, Any]:
    """The preview as the HTTP door sends it, with the names of files in the place of pictures."""
    document = to_document(made)
    for clip, names in zip(document["clips"], files, strict=True):
        for frame, name in zip(clip["frames"], names, strict=True):
            del frame["jpeg"]
            frame["file"] = name
    return document


def _view(sample_id: str, made: pb.SamplePreview, to: Path) -> Group:
    tokens = (
        f"{made.token_count:,}: {made.text_token_count:,} text, {made.video_token_count:,} video; "
        f"{made.label_token_count:,} are learned"
    )
    sampling = made.sampling
    table = facts(
        [
            ("sample", sample_id),
            ("sampling", f"max_frames {sampling.max_frames}, fps {sampling.fps:g}, max_pixels {sampling.max_pixels}"),
            ("tokens", tokens),
            ("model takes", f"{made.token_limit:,} tokens" if made.token_limit else ""),
            ("frames", str(to)),
        ]
    )
    warnings = [Text(f"{found.message} ({found.reason}): {found.remedy}", "yellow") for found in made.warnings]
    return Group(
        table, _clip_table(made), *warnings, Text("\nWhat the model reads; ⟦what it learns to say⟧:"), _marked(made)
    )


def _clip_table(made: pb.SamplePreview) -> Table:
    rows = [
        (
            clip.path,
            f"{clip.frame_count} of {clip.clip_frame_count:,}",
            f"{clip.width}x{clip.height}",
            f"{clip.model_width}x{clip.model_height}" if clip.model_width else "",
            clip.decoder,
        )
        for clip in made.clips
    ]
    return columns(("CLIP", "FRAMES", "SIZE", "FOR THE MODEL", "DECODED BY"), rows)


def _marked(made: pb.SamplePreview) -> Text:
    text = Text()
    for span in made.spans:
        words = f"<{span.token_count} video tokens>" if span.is_video else printable(span.text)
        text.append(
            f"⟦{words}⟧" if span.is_label else words, "bold green" if span.is_label else "dim" if span.is_video else ""
        )
    return text
