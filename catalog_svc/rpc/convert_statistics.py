"""Messages of statistics and domain objects, there and back."""

from __future__ import annotations

from dataclasses import asdict

from reeltune.catalog.v1 import dataset_statistics_pb2 as pb

from catalog_svc.domain.row_shapes import RowShape
from catalog_svc.domain.statistics import DatasetStatistics, Distribution, Named
from catalog_svc.domain.visual_tokens import VisionFamily, VisualSampling

_DEFAULT = VisualSampling()


def sampling_from_proto(sampling: pb.VisualSampling) -> VisualSampling:
    """Reads a sampling; what is left out has its default."""
    family = _DEFAULT.family
    if sampling.family != pb.VISION_FAMILY_UNSPECIFIED:
        family = VisionFamily(pb.VisionFamily.Name(sampling.family).removeprefix("VISION_FAMILY_"))
    return VisualSampling(family, sampling.max_frames or _DEFAULT.max_frames, sampling.fps, sampling.max_pixels)


def statistics_to_proto(dataset_id: str, found: DatasetStatistics) -> pb.DatasetStatistics:
    sampling = found.sampling
    return pb.DatasetStatistics(
        dataset_id=dataset_id,
        splits=_named_to_proto(found.splits),
        clip_seconds=_distribution_to_proto(found.clip_seconds),
        clip_fps=_distribution_to_proto(found.clip_fps),
        clip_frames=_distribution_to_proto(found.clip_frames),
        resolutions=_named_to_proto(found.resolutions),
        codecs=_named_to_proto(found.codecs),
        answer_characters=_distribution_to_proto(found.answer_characters),
        visual_tokens=_distribution_to_proto(found.visual_tokens),
        sampling=pb.VisualSampling(
            family=pb.VisionFamily.Value(f"VISION_FAMILY_{sampling.family}"),
            max_frames=sampling.max_frames,
            fps=sampling.fps,
            max_pixels=sampling.max_pixels,
        ),
        text_characters=_distribution_to_proto(found.text_characters),
        row_shapes=[_shape_to_proto(shape) for shape in found.row_shapes],
        has_more_shapes=found.has_more_shapes,
        used_text_characters=_distribution_to_proto(found.used_text),
        tags=_named_to_proto(found.tags),
        tag_count=found.tag_count,
        used_answer_characters=_distribution_to_proto(found.used_answers),
    )


def _shape_to_proto(shape: RowShape) -> pb.RowShape:
    clips = [pb.ShapeClip(**asdict(clip)) for clip in shape.clips]
    return pb.RowShape(rows=shape.rows, clips=clips, sample_id=shape.sample_id, mean_frames=shape.mean_frames)


def _named_to_proto(counts: Named) -> list[pb.NamedCount]:
    return [pb.NamedCount(name=name, count=count) for name, count in counts]


def _distribution_to_proto(spread: Distribution) -> pb.Distribution:
    return pb.Distribution(
        count=spread.count,
        minimum=spread.minimum,
        maximum=spread.maximum,
        mean=spread.mean,
        quantiles=[pb.Quantile(share=share, value=value) for share, value in spread.quantiles],
        bins=[pb.HistogramBin(lower=lower, upper=upper, count=count) for lower, upper, count in spread.bins],
    )
