"""What is known of models, as rows of the database and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from catalog_svc.domain.chat_template import ChatTemplateFacts
from catalog_svc.domain.entry import Entry
from catalog_svc.domain.frame_rule import FrameBudget, FrameRule
from catalog_svc.domain.model import ForwardCheck, ForwardState, Model, ModelFacts, ModelIssue
from catalog_svc.domain.model_parts import ModelMemory, ModelPart, PartKind


def model_facts_columns(facts: ModelFacts) -> tuple[object, ...]:
    """The columns that `insert_model_facts` takes, without the model's id."""
    details = {
        "parts": [asdict(part) for part in facts.parts],
        "memory": asdict(facts.memory),
        "chat_template": asdict(facts.chat_template),
        "frame_rule": None if facts.frame_rule is None else asdict(facts.frame_rule),
        "vocabulary_size": facts.vocabulary_size,
    }
    return (
        facts.model_type, facts.architecture, facts.parameter_count, facts.weight_bytes, facts.size_bytes,
        facts.context_length, facts.max_frames, facts.has_video_processor, facts.fingerprint, details,
    )  # fmt: skip


def model_from_row(entry: Entry, row: Any) -> Model:
    """Reads a row of `entry_details` that is a model's."""
    issues = tuple(ModelIssue(**found) for found in row["issues"] or ())
    forward = ForwardCheck(ForwardState(row["forward_state"] or ForwardState.NOT_RUN), row["forward_message"] or "")
    if row["model_type"] is None:
        return Model(entry, None, issues, forward)
    facts = ModelFacts(
        model_type=row["model_type"],
        architecture=row["architecture"],
        parameter_count=row["parameter_count"],
        weight_bytes=row["weight_bytes"],
        size_bytes=row["content_bytes"],
        context_length=row["context_length"],
        max_frames=row["max_frames"],
        has_video_processor=row["has_video_processor"],
        fingerprint=row["model_fingerprint"],
        **_details(row["model_details"] or {}),
    )
    return Model(entry, facts, issues, forward)


def _details(value: dict[str, Any]) -> dict[str, Any]:
    """What models that were validated before it was read do not have stays at its default."""
    if not value:
        return {}
    parts = [
        {**part, "kind": PartKind(part["kind"]), "lora_modules": tuple(part["lora_modules"])} for part in value["parts"]
    ]
    rule = value.get("frame_rule")
    return {
        "frame_rule": None if rule is None else FrameRule(**{**rule, "budget": FrameBudget(rule["budget"])}),
        "vocabulary_size": value.get("vocabulary_size", 0),
        "parts": tuple(ModelPart(**part) for part in parts),
        "memory": ModelMemory(**value["memory"]),
        "chat_template": ChatTemplateFacts(**value["chat_template"]),
    }
