"""Training parameters of the contract, as the training library takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from reeltune.catalog.v1 import sample_pb2
from reeltune.scheduler.v1 import (
    attempt_service_pb2,
    evaluation_pb2,
    merge_pb2,
    post_training_pb2,
    speed_parameters_pb2,
    training_job_pb2,
)
from reeltune.scheduler.v1 import training_parameters_pb2 as pb
from reeltune.scheduler.v1.rank_allocation_pb2 import RankAllocationParameters, ShareBounds

from trainer_svc.clients.parameters import specification_from_proto
from trainer_svc.clients.post_training import evaluation_from_proto, merge_from_proto
from trainer_svc.clients.scheduler_messages import claim_from_proto, log_to_proto, reason_to_proto
from trainer_svc.domain.attempt import FailReason
from trainer_svc.domain.errors import DeviceUnfitError
from trainer_svc.domain.reports import LogLine
from trainer_svc.qlora.catalog_rows import part_to_row, sample_to_row
from trainer_svc.qlora.messages import FailureReason
from trainer_svc.qlora.spec import GroupShare, TrainingSpec
from trainer_svc.usecases import train_in_child

Path = tuple[FieldDescriptor, ...]
ELSEWHERE = {"preset", "rehearsal"}
"""What the scheduler has resolved by then, and what is no `TrainingSpec`."""


def fields_of(message: Descriptor, parents: Path = ()) -> Iterator[Path]:
    """Each field that holds a value, by the way that leads to it."""
    for field in message.fields:
        if field.name in ELSEWHERE:
            continue
        if field.message_type is None:
            yield (*parents, field)
        else:
            yield from fields_of(field.message_type, (*parents, field))


def with_value(path: Path, value: Any) -> pb.TrainingParameters:
    """Parameters of which only the field at `path` has a value; None: only the messages that it lies in are there."""
    parameters = pb.TrainingParameters()
    message: Message = parameters
    for field in path[:-1]:
        inner = getattr(message, field.name)
        message = inner.add() if field.is_repeated else inner
        message.SetInParent()
    if value is not None:
        name = path[-1].name
        if path[-1].is_repeated:
            getattr(message, name).append(value)
        else:
            setattr(message, name, value)
    return parameters


def values_of(field: FieldDescriptor) -> list[Any]:
    """Two values or more that are told apart wherever the field arrives."""
    if field.name == "temporal_groups":
        return [pb.MODULE_GROUP_VISION, pb.MODULE_GROUP_LANGUAGE]  # the contract refuses the third
    if field.enum_type is not None:
        return [value.number for value in field.enum_type.values if value.number]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return [False, True]
    return ["a*", "b*"] if field.type == FieldDescriptor.TYPE_STRING else [3, 5]


def name_of(path: Path) -> str:
    return ".".join(field.name for field in path)


EVERY_FIELD = [pytest.param(path, id=name_of(path)) for path in fields_of(pb.TrainingParameters.DESCRIPTOR)]
EVERY_CHOICE = [
    pytest.param(path, id=name_of(path))
    for path in fields_of(pb.TrainingParameters.DESCRIPTOR)
    if path[-1].enum_type is not None
]


def spec(parameters: pb.TrainingParameters) -> TrainingSpec:
    return TrainingSpec.from_dict(specification_from_proto(parameters)).validate()


def test_unset_parameters_are_the_librarys_defaults() -> None:
    assert spec(pb.TrainingParameters()) == TrainingSpec()


@pytest.mark.parametrize("path", EVERY_FIELD)
def test_every_field_arrives_with_each_of_its_values(path: Path) -> None:
    arrived = []
    for value in values_of(path[-1]):
        converted = specification_from_proto(with_value(path, value))
        TrainingSpec.from_dict(converted)  # the library knows all fields and choices
        assert converted not in arrived, value
        arrived.append(converted)


@pytest.mark.parametrize("path", EVERY_CHOICE)
def test_a_choice_of_a_newer_contract_is_no_other_choice(path: Path) -> None:
    with pytest.raises(DeviceUnfitError, match=f"value 999 of {name_of(path)}, .*: upgrade the trainer"):
        specification_from_proto(with_value(path, 999))


def test_choices_of_a_newer_contract_are_refused_after_training_too() -> None:
    odd: Any = 99
    asked = post_training_pb2.PostTrainingParameters(evaluation=evaluation_pb2.EvaluationParameters(controls=[odd]))
    with pytest.raises(DeviceUnfitError, match=r"value 99 of evaluation\.controls"):
        evaluation_from_proto(asked)
    with pytest.raises(DeviceUnfitError, match=r"value 99 of merge\.weights"):
        merge_from_proto(post_training_pb2.PostTrainingParameters(merge=merge_pb2.MergeParameters(weights=odd)))


def test_a_claim_that_is_not_understood_can_be_given_back() -> None:
    job = training_job_pb2.TrainingJob(id="job_1", attempt=2)
    understood = claim_from_proto(attempt_service_pb2.Claim(job=job, grant="g"))
    assert not understood.unknown
    job.parameters.CopyFrom(with_value(EVERY_CHOICE[-1].values[0], 999))
    claim = claim_from_proto(attempt_service_pb2.Claim(job=job, grant="g"))
    assert (claim.job_id, claim.attempt, claim.grant, claim.specification) == ("job_1", 2, "g", {})
    assert "upgrade the trainer" in claim.unknown


def test_every_failure_of_a_training_child_has_a_reason_of_the_contract() -> None:
    elsewhere = {FailureReason.CHECKPOINT_MISMATCH, FailureReason.BAD_REQUEST, FailureReason.BAD_CLIP}
    assert train_in_child._REASONS.keys() == set(FailureReason) - elsewhere
    # Neither a better model nor other clips would help there.
    assert train_in_child._REASONS[FailureReason.BAD_SPEC] is FailReason.BAD_PARAMETERS


def test_parameters_arrive_where_they_belong() -> None:
    converted = spec(
        pb.TrainingParameters(
            lora=pb.LoraParameters(
                rank=4,
                alpha=8,
                dropout=0,
                use_rslora=True,
                target_groups=[pb.MODULE_GROUP_VISION, pb.MODULE_GROUP_LANGUAGE],
                temporal_groups=[pb.MODULE_GROUP_VISION],
                temporal_kernel_size=5,
            ),
            quantization=pb.QuantizationParameters(
                type=pb.QUANTIZATION_TYPE_NONE, double_quantization=False, compute_type=pb.COMPUTE_TYPE_BF16
            ),
            sampling=pb.SamplingParameters(max_frames=1, fps=2, max_pixels=4096),
            optimization=pb.OptimizationParameters(
                learning_rate=0.5,
                batch_size=3,
                gradient_accumulation_steps=5,
                max_steps=7,
                warmup_ratio=0.25,
                schedule=pb.LEARNING_RATE_SCHEDULE_LINEAR,
                weight_decay=0.125,
                max_grad_norm=2,
                optimizer=pb.OPTIMIZER_ADAMW_8BIT,
                seed=0,
                gradient_checkpointing=False,
            ),
            checkpoint_every_steps=11,
            log_every_steps=12,
            evaluate_every_steps=13,
        )
    )

    assert converted.lora.target_groups == ("vision", "language")
    assert (converted.lora.rank, converted.lora.alpha, converted.lora.dropout) == (4, 8, 0)
    assert converted.lora.use_rslora
    assert (converted.lora.temporal_groups, converted.lora.temporal_kernel_size) == (("vision",), 5)
    assert (converted.quantization.bits, converted.quantization.compute_dtype) == (16, "bf16")
    assert not converted.quantization.double_quantization
    assert (converted.sampling.max_frames, converted.sampling.min_frames) == (1, 1)
    assert (converted.sampling.fps, converted.sampling.max_pixels) == (2, 4096)
    optimization = converted.optimization
    assert (optimization.schedule, optimization.optimizer, optimization.seed) == ("linear", "adamw_8bit", 0)
    assert (optimization.learning_rate, optimization.weight_decay, optimization.max_grad_norm) == (0.5, 0.125, 2)
    assert (optimization.batch_size, optimization.gradient_accumulation_steps, optimization.max_steps) == (3, 5, 7)
    assert (optimization.warmup_ratio, optimization.gradient_checkpointing) == (0.25, False)
    steps = (converted.checkpoint_every_steps, converted.log_every_steps, converted.evaluate_every_steps)
    assert steps == (11, 12, 13)


def test_what_makes_it_faster_arrives() -> None:
    converted = spec(
        pb.TrainingParameters(
            optimization=pb.OptimizationParameters(batch_by_length=True),
            speed=speed_parameters_pb2.SpeedParameters(encoder_cache=speed_parameters_pb2.ENCODER_CACHE_OFF),
        )
    )
    assert converted.optimization.batch_by_length
    assert converted.runtime.encoder_cache == "off"


def test_an_allocation_of_ranks_arrives() -> None:
    converted = spec(
        pb.TrainingParameters(
            lora=pb.LoraParameters(
                rank=4,
                target_groups=[pb.MODULE_GROUP_VISION, pb.MODULE_GROUP_LANGUAGE],
                rank_allocation=RankAllocationParameters(
                    warmup_steps=9,
                    warmup_rank=12,
                    min_rank=1,
                    calibration_batches=3,
                    vision_share=ShareBounds(min=0.25),
                    language_share=ShareBounds(max=0.5),
                ),
            )
        )
    )
    allocation = converted.lora.rank_allocation
    assert (allocation.warmup_steps, allocation.warmup_rank, allocation.min_rank) == (9, 12, 1)
    assert allocation.calibration_batches == 3
    assert set(allocation.shares) == {GroupShare("vision", 0.25, 1.0), GroupShare("language", 0.0, 0.5)}


def test_a_row_has_the_tags_of_its_sample_and_nothing_more_without_any() -> None:
    assert sample_to_row(sample_pb2.Sample(sample_id="a", tags=["b", "a"])) == {
        "sample_id": "a", "split": "train", "messages": [], "tags": ["b", "a"]
    }  # fmt: skip
    assert sample_to_row(sample_pb2.Sample(sample_id="a")).keys() == {"sample_id", "split", "messages"}


def test_only_limits_that_a_row_sets_are_written() -> None:
    part = sample_pb2.ContentPart
    whole = part(video=sample_pb2.VideoPart(path="a/b.mp4"))
    stretch = part(video=sample_pb2.VideoPart(path="b.mp4", start_seconds=0, end_seconds=2.5, max_frames=3))

    assert part_to_row(whole) == {"type": "video", "uri": "clips/a/b.mp4"}
    assert part_to_row(stretch) == {"type": "video", "uri": "clips/b.mp4", "start": 0, "end": 2.5, "max_frames": 3}


def test_every_reason_is_one_of_the_contract() -> None:
    for reason in FailReason:
        assert training_job_pb2.StateReason.Name(reason_to_proto(reason)) == f"STATE_REASON_{reason}"


def test_long_lines_are_cut_to_what_the_contract_takes() -> None:
    assert len(log_to_proto(LogLine("warning", "é" * 5000)).text.encode()) <= 4096
