"""Presets, refusals, answers to held-out rows and early ends, as user and trainer see them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from reeltune.scheduler.v1 import (
    prediction_pb2,
    preset_service_pb2,
    training_history_pb2,
    training_job_pb2,
    training_options_pb2,
)
from reeltune.scheduler.v1 import training_parameters_pb2 as pb
from reeltune.scheduler.v1.checkpoint_pb2 import CheckpointPolicy
from reeltune.scheduler.v1.preset_service_pb2_grpc import PresetServiceStub

from tests.rpc.scheduler.scheduler_mesh import Replica, SmallCatalog, Trainer, User, failure_of, state_name

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_presets_are_shown_with_every_value_and_a_job_from_one_has_them(user: User, replica: Replica) -> None:
    stub = PresetServiceStub(replica.channel)
    presets = (await stub.ListPresets(preset_service_pb2.ListPresetsRequest(), metadata=user.metadata)).presets
    names = [training_options_pb2.Preset.Name(each.preset) for each in presets]
    assert names == ["PRESET_FAST", "PRESET_BALANCED", "PRESET_BEST", "PRESET_JETSON_8GB"]
    jetson = presets[-1]
    assert jetson.parameters.quantization.quantize_vision
    assert jetson.parameters.log_every_steps == 1
    assert "quantization.quantize_vision" in jetson.sets
    assert "8 GB" in jetson.description
    job = await user.create(parameters=pb.TrainingParameters(preset=training_options_pb2.PRESET_JETSON_8GB))
    assert job.parameters == jetson.parameters
    own = pb.TrainingParameters(preset=training_options_pb2.PRESET_JETSON_8GB, lora=pb.LoraParameters(rank=3))
    job = await user.create(parameters=own)
    assert (job.parameters.lora.rank, job.parameters.optimization.batch_size) == (3, 1)
    assert (await user.get(job.id)).parameters == job.parameters


@pytest.mark.parametrize(
    ("parameters", "fields", "words"),
    [
        (
            pb.TrainingParameters(
                lora=pb.LoraParameters(initialization=training_options_pb2.LORA_INITIALIZATION_PISSA)
            ),
            {},
            "PiSSA fails on 4-bit weights: use LOFTQ",
        ),
        (
            pb.TrainingParameters(optimization=pb.OptimizationParameters(optimizer=pb.OPTIMIZER_PAGED_ADAMW)),
            {},
            "set device_class to CUDA, or use ADAMW",
        ),
        (
            pb.TrainingParameters(checkpoints=CheckpointPolicy(restore_best=True), evaluate_every_steps=1),
            {},
            "needs rows of the split `eval`",
        ),
        (
            pb.TrainingParameters(early_stopping=training_options_pb2.EarlyStopping(min_delta=1)),
            {},
            "parameters.early_stopping.patience",
        ),
    ],
)
async def test_what_cannot_be_is_refused_at_submit(
    user: User, parameters: pb.TrainingParameters, fields: dict[str, Any], words: str
) -> None:
    failure = await failure_of(user.create(parameters=parameters, **fields))
    assert (failure.code, failure.reason) == (INVALID, "FIELD_INVALID")
    assert words in f"{failure.message} {failure.metadata}"


def prediction(name: str, **fields: Any) -> prediction_pb2.Prediction:
    values = {"question": "colour?", "expected": "red", "generated": "blue", "loss": 0.5, **fields}
    return prediction_pb2.Prediction(sample_id=name, **values)


async def test_answers_and_the_early_end_outlive_the_trainer(
    user: User, trainer: Trainer, catalog: SmallCatalog
) -> None:
    dataset_id = catalog.add_dataset(eval_rows=4)
    parameters = pb.TrainingParameters(
        evaluate_every_steps=1,
        early_stopping=training_options_pb2.EarlyStopping(patience=2),
        sample_predictions=training_options_pb2.SamplePredictions(count=1),
    )
    job = await user.create(parameters=parameters, dataset_id=dataset_id)
    assert job.parameters.sample_predictions.max_new_tokens == 64
    attempt = await trainer.must_claim()
    told = prediction_pb2.Predictions(
        step=3,
        best=[prediction("e1")],
        worst=[prediction("e2", generated="x" * 5000, is_cut=True, loss=float("nan"))],
    )
    async with attempt.attach() as stream:
        await stream.started(total_steps=100)
        await stream.acked(await stream.report(predictions=told))
        files = await attempt.put_files({"adapter_config.json": b"{}"})
        why = "ended at step 3 of 100: the loss on the held-out samples has not fallen for 2 measurements"
        assert await attempt.complete(files, early_end=why) == "COMPLETED"
    done = await user.get(job.id)
    assert (done.reason, done.message) == (training_job_pb2.STATE_REASON_EARLY_STOPPED, why)
    request = training_history_pb2.ListEventsRequest(job_id=job.id)
    events = (await user.training.ListEvents(request, metadata=user.metadata)).events
    (found,) = (event.predictions for event in events if event.HasField("predictions"))
    assert found.step == 3
    assert list(found.best) == list(told.best)
    assert (found.worst[0].is_cut, len(found.worst[0].generated)) == (True, 1024)
    last = events[-1].state_change
    assert (state_name(last.to), last.reason, last.message) == ("COMPLETED", done.reason, why)


async def test_a_page_of_many_answers_fits_into_a_message(user: User, trainer: Trainer, catalog: SmallCatalog) -> None:
    parameters = pb.TrainingParameters(
        evaluate_every_steps=1, sample_predictions=training_options_pb2.SamplePredictions(count=8)
    )
    job = await user.create(parameters=parameters, dataset_id=catalog.add_dataset(eval_rows=16))
    attempt = await trainer.must_claim()
    long = dict.fromkeys(("question", "expected", "generated"), "x" * 1024)
    answers = [prediction(f"e{number}", **long) for number in range(8)]
    async with attempt.attach() as stream:
        await stream.started(total_steps=100)
        for step in range(90):
            told = prediction_pb2.Predictions(step=step, best=answers, worst=answers)
            last = await stream.report(predictions=told)
        await stream.acked(last)
    request = training_history_pb2.ListEventsRequest(job_id=job.id, page_size=1000)
    sizes, steps = [], []
    while not sizes or request.page_token:
        page = await user.training.ListEvents(request, metadata=user.metadata)
        sizes.append(page.ByteSize())
        steps += [event.predictions.step for event in page.events if event.HasField("predictions")]
        request.page_token = page.next_page_token
    assert steps == list(range(90)), "nothing is left out, nothing comes twice"
    assert sum(sizes) > 4 * 1024 * 1024, "together more than one answer may hold"
    assert max(sizes) < 2.1 * 1024 * 1024


async def test_a_stop_wins_over_an_early_end(user: User, trainer: Trainer) -> None:
    job = await user.create()
    attempt = await trainer.must_claim()
    async with attempt.attach() as stream:
        await stream.started()
        await user.stop(job.id)
        files = await attempt.put_files({"adapter_config.json": b"{}"})
        assert await attempt.complete(files, early_end="no improvement") == "STOPPED"
    assert (await user.get(job.id)).reason == training_job_pb2.STATE_REASON_STOP_REQUESTED
