"""What the catalog says of a model's layers and a dataset's clips, for estimates."""

from __future__ import annotations

from google.protobuf.message import Message
from reeltune.catalog.v1 import dataset_statistics_pb2, frame_rule_pb2, model_pb2

from scheduler_svc.domain.estimate.facts import (
    DatasetShape,
    FrameBudget,
    FrameRule,
    ModelShape,
    Part,
    RowShape,
    ShapeClip,
)


def model_shape_from_proto(facts: model_pb2.ModelFacts) -> ModelShape | None:
    """Returns the layers of a model; None where the catalog has not told them."""
    parts = {part.kind: _part(part) for part in facts.parts}
    language = parts.get(model_pb2.MODEL_PART_KIND_LANGUAGE, Part())
    if not language.layers or not language.width:
        return None
    return ModelShape(
        vision=parts.get(model_pb2.MODEL_PART_KIND_VISION, Part()),
        projector=parts.get(model_pb2.MODEL_PART_KIND_PROJECTOR, Part()),
        language=language,
        head=parts.get(model_pb2.MODEL_PART_KIND_HEAD, Part()),
        vocabulary=facts.vocabulary_size,
        context_length=facts.context_length,
        frame_rule=_rule(facts.frame_rule) if facts.HasField("frame_rule") else None,
    )


_LISTED = 50
"""Splits at the most: where there are so many, there may be more."""


def dataset_shape_from_proto(statistics: dataset_statistics_pb2.DatasetStatistics, train_rows: int) -> DatasetShape:
    """Returns the rows that training jobs use by what they show and say."""
    text, answers = statistics.used_text_characters, statistics.used_answer_characters
    return DatasetShape(
        shapes=tuple(
            RowShape(shape.rows, tuple(_clip(clip) for clip in shape.clips), shape.sample_id, shape.mean_frames)
            for shape in statistics.row_shapes
        ),
        rows=train_rows,
        max_text=round(text.maximum),
        mean_text=text.mean,
        max_answer=round(answers.maximum),
        mean_answer=answers.mean,
        counted=text.count,
        splits=frozenset(each.name for each in statistics.splits) if len(statistics.splits) < _LISTED else frozenset(),
    )


def _part(part: model_pb2.ModelPart) -> Part:
    return Part(
        parameters=part.parameter_count,
        linear_layers=part.linear_layer_count,
        linear_parameters=part.linear_parameter_count,
        linear_inputs=part.linear_inputs,
        linear_outputs=part.linear_outputs,
        largest_linear=part.largest_linear,
        layers=part.layer_count,
        width=part.width,
    )


def _rule(rule: frame_rule_pb2.FrameRule) -> FrameRule | None:
    if rule.budget == frame_rule_pb2.FRAME_BUDGET_UNSPECIFIED:
        return None
    fields = {name: getattr(rule, name) for name in FrameRule.__dataclass_fields__ if name != "budget"}
    budget = FrameBudget(frame_rule_pb2.FrameBudget.Name(rule.budget).removeprefix("FRAME_BUDGET_"))
    found = FrameRule(budget, **fields)
    return found if found.is_plausible else None


def _clip(clip: dataset_statistics_pb2.ShapeClip) -> ShapeClip:
    return ShapeClip(
        clip.width,
        clip.height,
        clip.frames,
        clip.fps,
        **{name: getattr(clip, name) for name in ("max_frames", "sampling_fps", "max_pixels") if _has(clip, name)},
    )


def _has(message: Message, name: str) -> bool:
    return message.HasField(name)
