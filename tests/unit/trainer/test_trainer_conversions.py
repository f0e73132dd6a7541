"""Training parameters of the contract, as the training library takes them."""

from __future__ import annotations

from reeltune.catalog.v1 import sample_pb2
from reeltune.scheduler.v1 import speed_parameters_pb2, training_job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as pb
from reeltune.scheduler.v1.rank_allocation_pb2 import RankAllocationParameters, ShareBounds

from trainer_svc.clients.parameters import specification_from_proto
from trainer_svc.clients.scheduler_messages import log_to_proto, reason_to_proto
from trainer_svc.domain.attempt import FailReason
from trainer_svc.domain.materialisation import with_whole_epochs
from trainer_svc.domain.reports import LogLine
from trainer_svc.qlora.catalog_rows import part_to_row, sample_to_row
from trainer_svc.qlora.spec import GroupShare, TrainingSpec


def spec(parameters: pb.TrainingParameters) -> TrainingSpec:
    return TrainingSpec.from_dict(with_whole_epochs(specification_from_proto(parameters), 100)).validate()


def test_unset_parameters_are_the_librarys_defaults() -> None:
    assert spec(pb.TrainingParameters()) == TrainingSpec()


def test_every_parameter_arrives() -> None:
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
