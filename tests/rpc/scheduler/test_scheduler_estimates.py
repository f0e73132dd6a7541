"""Estimates by rpc, and what is refused at submission because of them."""

from __future__ import annotations

from typing import Any

import grpc
from reeltune.catalog.v1 import dataset_statistics_pb2 as statistics_pb
from reeltune.catalog.v1 import frame_rule_pb2, model_pb2
from reeltune.scheduler.v1 import estimate_service_pb2 as pb
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb
from reeltune.scheduler.v1 import worker_pb2

from tests.rpc.scheduler.scheduler_mesh import Replica, SmallCatalog, Trainer, User, failure_of

CODE = grpc.StatusCode
GB = 10**9
FIXED = frame_rule_pb2.FrameRule(
    budget=frame_rule_pb2.FRAME_BUDGET_FIXED, tokens_per_frame=64, patches_per_token=16.0, frames_per_patch=1
)


def add_counted_model(catalog: SmallCatalog, *, context_length: int = 8192, **facts: Any) -> str:
    """A language model of 2,000 million weights, whose frames become 64 tokens each."""
    language = model_pb2.ModelPart(
        kind=model_pb2.MODEL_PART_KIND_LANGUAGE,
        parameter_count=2 * 10**9,
        linear_layer_count=196,
        linear_parameter_count=1_700_000_000,
        linear_inputs=500_000,
        linear_outputs=560_000,
        largest_linear=17_000_000,
        layer_count=28,
        width=2048,
    )
    vision = model_pb2.ModelPart(
        kind=model_pb2.MODEL_PART_KIND_VISION,
        parameter_count=100_000_000,
        linear_layer_count=72,
        linear_parameter_count=90_000_000,
        linear_inputs=80_000,
        linear_outputs=80_000,
        largest_linear=3_000_000,
        layer_count=12,
        width=768,
    )
    return catalog.add_model(
        **{
            "parts": [vision, language],
            "frame_rule": FIXED,
            "vocabulary_size": 50_000,
            "context_length": context_length,
            "max_frames": 0,
            **facts,
        }
    )


def add_counted_dataset(catalog: SmallCatalog) -> str:
    """Ten rows that show a clip of 300 frames each."""
    dataset_id = catalog.add_dataset()
    clip = statistics_pb.ShapeClip(width=640, height=360, frames=300, fps=30.0)
    words = statistics_pb.Distribution(count=10, maximum=200, mean=100)
    catalog.statistics[dataset_id] = statistics_pb.DatasetStatistics(
        row_shapes=[statistics_pb.RowShape(rows=10, clips=[clip], sample_id="s1", mean_frames=300)],
        used_text_characters=words,
        used_answer_characters=words,
    )
    return dataset_id


MANY = {"device_count": 64}


def counted(user: User, catalog: SmallCatalog, **facts: Any) -> User:
    """The same user, with a model and a dataset of which all is known."""
    return User(user.replica, user.id, user.metadata, add_counted_model(catalog, **facts), add_counted_dataset(catalog))


async def estimate(user: User, **fields: Any) -> pb.EstimateTrainingJobResponse:
    request = pb.EstimateTrainingJobRequest(model_id=user.model_id, dataset_id=user.dataset_id, **fields)
    return await user.replica.estimates.EstimateTrainingJob(request, metadata=user.metadata)


def frames(count: int) -> parameters_pb.TrainingParameters:
    return parameters_pb.TrainingParameters(sampling=parameters_pb.SamplingParameters(max_frames=count))


async def test_registered_and_named_devices_are_estimated(user: User, catalog: SmallCatalog, replica: Replica) -> None:
    asking = counted(user, catalog)
    await Trainer(replica).register(name="big", memory_bytes=64 * GB, matmul_flops=1e11, decode_pixels_per_second=1e8)
    named = pb.NamedDevice(device_class=worker_pb2.DEVICE_CLASS_JETSON, memory_bytes=2 * GB)
    found = await estimate(asking, devices=[named])
    assert found.tokens.max_visual_tokens == 8 * 64
    assert found.tokens.max_text_tokens > 0
    assert found.trained_parameters == 16 * (500_000 + 560_000)
    big, small = found.devices
    assert (list(big.trainers), big.fit, big.HasField("suggestion")) == (["big"], pb.FIT_FITS, False)
    assert big.total_bytes == sum(part.size_bytes for part in big.parts)
    assert {part.part for part in big.parts} == set(pb.MemoryPart.values()) - {0}
    assert big.least_bytes < big.total_bytes < big.most_bytes
    assert big.time.steps == found.parameters.optimization.epochs * 3
    assert big.time.dominant == pb.EFFORT_LANGUAGE
    assert (list(small.trainers), small.fit, small.HasField("time")) == ([], pb.FIT_EXCEEDS, False)
    only_gpus = await estimate(asking, device_class=worker_pb2.DEVICE_CLASS_CUDA)
    assert not only_gpus.devices


async def test_an_estimate_is_refused_as_a_job_would_be(user: User, catalog: SmallCatalog) -> None:
    failure = await failure_of(estimate(user))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "ESTIMATE_UNAVAILABLE")
    foreign = User(user.replica, user.id, user.metadata, catalog.add_model("usr_other"), user.dataset_id)
    assert (await failure_of(estimate(foreign))).reason == "MODEL_NOT_FOUND"
    paged = parameters_pb.TrainingParameters(
        optimization=parameters_pb.OptimizationParameters(optimizer=parameters_pb.OPTIMIZER_PAGED_ADAMW)
    )
    for field, fields in (("parameters.optimization.optimizer", {"parameters": paged}), ("device_count", MANY)):
        asked, submitted = await failure_of(estimate(user, **fields)), await failure_of(user.create(**fields))
        assert (asked.code, asked.reason, asked.message) == (submitted.code, submitted.reason, submitted.message)
        assert [each.field for each in asked.field_violations] == [field]


async def test_a_job_that_no_trainer_can_hold_is_refused_with_what_would_fit(
    user: User, catalog: SmallCatalog, replica: Replica
) -> None:
    asking = counted(user, catalog)
    await Trainer(replica).register(name="board", device_class="JETSON", memory_bytes=5 * GB)
    wide = parameters_pb.TrainingParameters(
        sampling=parameters_pb.SamplingParameters(max_frames=64),
        optimization=parameters_pb.OptimizationParameters(batch_size=16),
    )
    # An estimate waits until the rows are counted, a job does not for long.
    assert (await estimate(asking)).HasField("tokens")
    failure = await failure_of(asking.create(parameters=wide))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "JOB_TOO_LARGE")
    told = failure.metadata
    assert (await failure_of(asking.create(parameters=wide))).metadata == told, "found once, told again"
    assert (told["trainer"], told["device_class"], told["available_bytes"]) == ("board", "JETSON", str(5 * GB))
    assert int(told["needed_bytes"]) > 5 * GB
    assert int(told["activations_bytes"]) > int(told["adapter_bytes"]) > 0
    fitting = parameters_pb.TrainingParameters(
        sampling=parameters_pb.SamplingParameters(max_frames=int(told.get("sampling.max_frames", 64))),
        optimization=parameters_pb.OptimizationParameters(batch_size=int(told["optimization.batch_size"])),
    )
    job = await asking.create(parameters=fitting)
    assert 0 < job.device_memory_bytes < 5 * GB, "no smaller board is to claim it"
    other_class = worker_pb2.DEVICE_CLASS_CUDA
    assert (await asking.create(parameters=wide, device_class=other_class)).id, "one may yet come"
    await Trainer(replica).register(name="big", memory_bytes=512 * GB)
    assert (await asking.create(parameters=wide)).id, "another trainer can"


async def test_the_memory_that_a_job_asks_for_locks_no_class_out(
    user: User, catalog: SmallCatalog, replica: Replica
) -> None:
    asking = counted(user, catalog)
    await Trainer(replica).register(memory_bytes=512 * GB)
    named = [pb.NamedDevice(device_class=kind) for kind in (worker_pb2.DEVICE_CLASS_CUDA, worker_pb2.DEVICE_CLASS_CPU)]
    found = await estimate(asking, devices=named)
    _, gpu, cpu = found.devices
    job = await asking.create()
    assert 0 < job.device_memory_bytes <= gpu.least_bytes < cpu.least_bytes
    only = await asking.create(device_class=worker_pb2.DEVICE_CLASS_CPU)
    assert only.device_memory_bytes == cpu.least_bytes


async def test_devices_of_one_trainer_share_what_a_job_takes(
    user: User, catalog: SmallCatalog, replica: Replica
) -> None:
    asking = counted(user, catalog)
    await Trainer(replica).register(name="four", device_class="CUDA", device_count=4, memory_bytes=5 * GB)
    wide = parameters_pb.TrainingParameters(
        sampling=parameters_pb.SamplingParameters(max_frames=64),
        optimization=parameters_pb.OptimizationParameters(batch_size=4, gradient_accumulation_steps=1),
    )
    for_five = parameters_pb.TrainingParameters(optimization=parameters_pb.OptimizationParameters(batch_size=8))
    (alone,), (shared,) = [(await estimate(asking, parameters=wide, device_count=count)).devices for count in (1, 4)]
    assert (alone.fit, list(shared.trainers)) == (pb.FIT_EXCEEDS, ["four"])
    assert shared.least_bytes < alone.least_bytes
    assert shared.fit != pb.FIT_EXCEEDS
    assert not (await estimate(asking, parameters=for_five, device_count=5)).devices, "it has no more than four"
    assert (await failure_of(asking.create(parameters=wide))).reason == "JOB_TOO_LARGE"
    assert (await asking.create(parameters=wide, device_count=4)).id


async def test_rows_that_are_longer_than_the_model_takes_are_refused_by_name(user: User, catalog: SmallCatalog) -> None:
    asking = counted(user, catalog, context_length=1000)
    assert (await estimate(asking)).HasField("tokens")
    failure = await failure_of(asking.create(parameters=frames(16)))
    assert (failure.code, failure.reason) == (CODE.FAILED_PRECONDITION, "CONTEXT_EXCEEDED")
    told = failure.metadata
    assert (told["tokens"], told["context_length"], told["rows"], told["samples"]) == ("1024", "1000", "10", "s1")
    assert (await asking.create(parameters=frames(int(told["max_frames"])))).id
    found = await estimate(asking, parameters=frames(16))
    assert (found.tokens.rows_over_context, list(found.tokens.samples_over_context)) == (10, ["s1"])


async def test_what_is_not_known_refuses_nothing(user: User, catalog: SmallCatalog, replica: Replica) -> None:
    await Trainer(replica).register(memory_bytes=1)
    assert (await user.create()).device_memory_bytes == 0, "a model whose layers were never counted"
    assert not catalog.counted, "nor is anything asked for its sake"
    unknown = User(user.replica, user.id, user.metadata, add_counted_model(catalog), catalog.add_dataset())
    await Trainer(replica).register(name="big", memory_bytes=20 * GB)
    jobs = [await unknown.create(parameters=frames(512)) for _ in range(3)]
    assert all(job.device_memory_bytes > GB for job in jobs), "the weights are known all the same"
    assert catalog.counted == [unknown.dataset_id], "a catalog that does not answer is not asked with every job"


async def test_a_datasets_rows_are_asked_for_once(user: User, catalog: SmallCatalog, replica: Replica) -> None:
    asking = counted(user, catalog)
    await Trainer(replica).register(memory_bytes=64 * GB)
    for _ in range(3):
        await asking.create()
    await estimate(asking)
    assert catalog.counted == [asking.dataset_id]
