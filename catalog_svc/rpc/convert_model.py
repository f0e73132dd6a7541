"""What is known of models, as messages of the contract."""

from __future__ import annotations

from dataclasses import asdict

from reeltune.catalog.v1 import frame_rule_pb2, model_pb2

from catalog_svc.domain.frame_rule import FrameRule
from catalog_svc.domain.model import ForwardCheck, ModelFacts
from catalog_svc.domain.model_parts import ModelPart


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
        frame_rule=None if facts.frame_rule is None else _rule_to_proto(facts.frame_rule),
        vocabulary_size=facts.vocabulary_size,
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
        linear_parameter_count=part.linear_parameters,
        linear_inputs=part.linear_inputs,
        linear_outputs=part.linear_outputs,
        largest_linear=part.largest_linear,
        layer_count=part.layer_count,
        width=part.width,
    )


def _rule_to_proto(rule: FrameRule) -> frame_rule_pb2.FrameRule:
    fields = asdict(rule)
    fields["budget"] = frame_rule_pb2.FrameBudget.Value(f"FRAME_BUDGET_{rule.budget}")
    return frame_rule_pb2.FrameRule(**fields)
