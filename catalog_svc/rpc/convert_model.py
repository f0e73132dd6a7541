"""What is known of models, as messages of the contract."""

from __future__ import annotations

from dataclasses import asdict

from reeltune.catalog.v1 import frame_rule_pb2, model_pb2

from catalog_svc.domain.frame_rule import FrameRule
from catalog_svc.domain.model import ForwardCheck, ModelFacts
from catalog_svc.domain.model_parts import ModelPart

_INT32, _INT64 = (1 << 31) - 1, (1 << 63) - 1


def model_facts_to_proto(facts: ModelFacts) -> model_pb2.ModelFacts:
    return model_pb2.ModelFacts(
        model_type=facts.model_type,
        architecture=facts.architecture,
        parameter_count=facts.parameter_count,
        weight_bytes=facts.weight_bytes,
        size_bytes=facts.size_bytes,
        context_length=facts.context_length,
        max_frames=facts.max_frames,
        has_video_processor=facts.has_video_processor,
        fingerprint=facts.fingerprint,
        parts=[_part_to_proto(part) for part in facts.parts],
        has_chat_template=facts.chat_template.is_present,
        has_generation_marks=facts.chat_template.has_generation_marks,
        memory_4bit_bytes=facts.memory.bytes_4bit,
        memory_16bit_bytes=facts.memory.bytes_16bit,
        frame_rule=_rule_to_proto(facts.frame_rule),
        vocabulary_size=_held(facts.vocabulary_size, _INT64),
    )


def forward_to_proto(forward: ForwardCheck) -> model_pb2.ForwardCheck:
    state = model_pb2.ForwardCheckState.Value(f"FORWARD_CHECK_STATE_{forward.state}")
    return model_pb2.ForwardCheck(state=state, message=forward.message)


def _part_to_proto(part: ModelPart) -> model_pb2.ModelPart:
    return model_pb2.ModelPart(
        kind=model_pb2.ModelPartKind.Value(f"MODEL_PART_KIND_{part.kind}"),
        parameter_count=part.parameter_count,
        linear_layer_count=part.linear_layers,
        lora_modules=part.lora_modules,
        linear_parameter_count=_held(part.linear_parameters, _INT64),
        linear_inputs=_held(part.linear_inputs, _INT64),
        linear_outputs=_held(part.linear_outputs, _INT64),
        largest_linear=_held(part.largest_linear, _INT64),
        layer_count=part.layer_count,
        width=_held(part.width, _INT32),
    )


def _held(number: int, most: int) -> int:
    """What was read of a model before such numbers were refused is not known; its entry is to be read all the same."""
    return number if number <= most else 0


def _rule_to_proto(rule: FrameRule | None) -> frame_rule_pb2.FrameRule | None:
    if rule is None or not rule.is_plausible:
        return None
    fields = asdict(rule)
    fields["budget"] = frame_rule_pb2.FrameBudget.Value(f"FRAME_BUDGET_{rule.budget}")
    return frame_rule_pb2.FrameRule(**fields)
