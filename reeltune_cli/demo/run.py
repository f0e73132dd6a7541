"""The demo: from sign-up to an adapter that answers about clips it never saw, as a client of a whole mesh."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from reeltune.catalog.v1 import dataset_pb2, dataset_service_pb2, model_pb2, model_service_pb2
from reeltune.scheduler.v1 import training_job_pb2 as job_pb2
from reeltune.scheduler.v1 import training_parameters_pb2 as parameters_pb2
from reeltune.scheduler.v1 import training_service_pb2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from reeltune_cli.client.connection import Client
from reeltune_cli.client.download import download_artifact
from reeltune_cli.client.errors import ClientError, describe_rpc_error
from reeltune_cli.client.upload import upload_folder
from reeltune_cli.client.watch import watch_dataset, watch_job, watch_model
from reeltune_cli.demo.dataset import DemoRow, write_dataset
from reeltune_cli.demo.evaluation import evaluate, exact_match, normalised
from reeltune_cli.demo.recipe import SHIPPED_BASE, TUNING_RECIPE, TuningRecipe
from reeltune_cli.stack.background import MeshNotReady, background_mesh

_RELOAD_TIMEOUT_SECONDS = 300
_TOLD_EVERY_STEPS = 15


class DemoFailed(Exception):
    """A step of the demo went wrong; the text says which and how."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What the steps share."""

    folder: Path
    console: Console
    recipe: TuningRecipe = TUNING_RECIPE
    started: float = field(default_factory=time.monotonic)

    @property
    def training_data(self) -> Path:
        return self.folder / "dataset"

    @property
    def held_out_data(self) -> Path:
        return self.folder / "held-out"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self.started:6.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    def progress(self) -> Progress:
        """A bar that disappears when it is full; on what is no terminal, nothing."""
        columns = (TextColumn("          {task.description}"), BarColumn(), TimeRemainingColumn())
        note = TextColumn("{task.fields[note]}")
        is_quiet = not self.console.is_terminal
        return Progress(*columns, note, console=self.console, transient=True, disable=is_quiet)


def run_demo(folder: Path, console: Console) -> int:
    """Runs the demo in `folder`, whose earlier content of ours is replaced, and returns the exit code."""
    demo = Demo(folder, console)
    try:
        summary = asyncio.run(_run(demo))
    except (DemoFailed, ClientError, MeshNotReady) as error:
        console.print(f"demo failed: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except grpc.aio.AioRpcError as error:
        console.print(f"demo failed: {describe_rpc_error(error)}", style="bold red", markup=False, soft_wrap=True)
        return 1
    console.print(summary, style="bold green", markup=False, highlight=False, soft_wrap=True)
    return 0


async def _run(demo: Demo) -> str:
    held_out = await asyncio.to_thread(_make_data, demo)
    demo.say("starting the mesh: Postgres, NATS, object store, Envoy, four services, one trainer")
    async with background_mesh(demo.folder / "home") as endpoint, Client(endpoint) as client:
        demo.say(
            f"the mesh is up at https://{endpoint.target}; its logs are in {demo.folder / 'home' / 'data' / 'logs'}"
        )
        await _sign_up(demo, client)
        model_id, dataset_id = await _register_model(demo, client), await _register_dataset(demo, client)
        job_id = await _train(demo, client, model_id, dataset_id)
        size_bytes = await _download(demo, client, job_id)
        scores, tuned = await _measure(demo, client, job_id, held_out)
    # The mesh is down by now: nothing of it can help.
    await _check_plain_reload(demo, held_out, tuned)
    base, tuned_match, shuffled = scores
    return (
        f"demo ok: exact match {base:.2f} -> {tuned_match:.2f} on {len(held_out)} held-out clips "
        f"(shuffled {shuffled:.2f}), adapter {size_bytes / 1e6:.1f} MB, {time.monotonic() - demo.started:.0f} s"
    )


def _make_data(demo: Demo) -> list[DemoRow]:
    """Writes training and held-out clips to folders of their own and returns the held-out rows."""
    for old in (demo.training_data, demo.held_out_data, demo.adapter, demo.folder / "home"):
        shutil.rmtree(old, ignore_errors=True)
    recipe = demo.recipe
    write_dataset(demo.training_data, seed=0, train_clips=recipe.train_clips, held_out_clips=0)
    held_out = write_dataset(demo.held_out_data, seed=0, train_clips=0, held_out_clips=recipe.held_out_clips)
    demo.say(f"made {recipe.train_clips} H.264 clips to train on and {len(held_out)} others to ask about")
    demo.say(f"for instance: {held_out[0].question!r} -> {held_out[0].answer!r}")
    return held_out


async def _sign_up(demo: Demo, client: Client) -> None:
    user = await client.session.sign_up("demo", "demo@example.com", secrets.token_urlsafe(24))
    demo.say(f"signed up as {user.username}")


async def _register_model(demo: Demo, client: Client) -> str:
    request = model_service_pb2.CreateModelRequest(
        name="tiny-shapes", description="4.7 M parameters, Qwen3-VL architecture"
    )
    model = (await client.models.CreateModel(request)).model
    sent = await upload_folder(client, model.id, SHIPPED_BASE)
    await client.models.ValidateModel(model_service_pb2.ValidateModelRequest(model_id=model.id))
    async for seen in watch_model(client, model.id):
        model = seen
    if model.state != model_pb2.MODEL_STATE_READY:
        raise DemoFailed(f"the base model was refused: {model.issues}")
    facts = model.facts
    size = f"{facts.parameter_count / 1e6:.1f} M parameters"
    demo.say(f"base model registered: {facts.architecture}, {size}, {sent.files} files")
    return model.id


async def _register_dataset(demo: Demo, client: Client) -> str:
    created = await client.datasets.CreateDataset(dataset_service_pb2.CreateDatasetRequest(name="moving-shapes"))
    dataset = created.dataset
    sent = await upload_folder(client, dataset.id, demo.training_data)
    demo.say(f"uploaded {sent.files} files, {sent.size_bytes / 1e6:.1f} MB")
    await client.datasets.ValidateDataset(dataset_service_pb2.ValidateDatasetRequest(dataset_id=dataset.id))
    async for seen in watch_dataset(client, dataset.id):
        dataset = seen
    if dataset.state != dataset_pb2.DATASET_STATE_READY:
        raise DemoFailed(f"the dataset was refused with {dataset.counts.errors} errors")
    counts = dataset.counts
    demo.say(f"dataset READY: all frames of {counts.clips} clips decoded, {counts.rows} rows checked")
    return dataset.id


async def _train(demo: Demo, client: Client, model_id: str, dataset_id: str) -> str:
    request = training_service_pb2.CreateTrainingJobRequest(
        model_id=model_id, dataset_id=dataset_id, name="first or last", parameters=_parameters(demo.recipe)
    )
    job = (await client.training.CreateTrainingJob(request)).job
    demo.say(f"job {job.id} accepted: QLoRA, NF4, rank {job.parameters.lora.rank}")
    with demo.progress() as progress:
        bar = progress.add_task("training", total=None, note="")
        async for message in watch_job(client, job.id):
            if message.HasField("snapshot"):
                job.CopyFrom(message.snapshot)
                continue
            event = message.event
            if event.HasField("state_change"):
                job.state, job.message = event.state_change.to, event.state_change.message
                demo.say(f"job is {job_pb2.JobState.Name(job.state).removeprefix('JOB_STATE_')}")
            elif event.HasField("progress"):
                progress.update(bar, completed=event.progress.step, total=event.progress.total_steps or None)
            elif event.HasField("metrics") and "loss" in event.metrics.values:
                values = event.metrics.values
                note = f"loss {values['loss']:.3f}  {values['samples_per_second']:.0f} samples/s"
                progress.update(bar, note=note)
                if event.metrics.step % _TOLD_EVERY_STEPS == 0:
                    demo.say(f"step {event.metrics.step}: {note}")
            elif event.HasField("log"):
                demo.say(event.log.text)
    if job.state != job_pb2.JOB_STATE_COMPLETED:
        raise DemoFailed(f"the job ended as {job_pb2.JobState.Name(job.state)}: {job.message}")
    return job.id


def _parameters(recipe: TuningRecipe) -> parameters_pb2.TrainingParameters:
    schedule = f"LEARNING_RATE_SCHEDULE_{recipe.schedule.upper()}"
    return parameters_pb2.TrainingParameters(
        lora=parameters_pb2.LoraParameters(rank=recipe.lora_rank, alpha=recipe.lora_alpha, dropout=recipe.lora_dropout),
        sampling=parameters_pb2.SamplingParameters(max_frames=recipe.max_frames),
        optimization=parameters_pb2.OptimizationParameters(
            learning_rate=recipe.learning_rate,
            batch_size=recipe.batch_size,
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            max_steps=recipe.max_steps,
            warmup_ratio=recipe.warmup_ratio,
            schedule=parameters_pb2.LearningRateSchedule.Value(schedule),
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            gradient_checkpointing=recipe.gradient_checkpointing,
        ),
    )


async def _download(demo: Demo, client: Client, job_id: str) -> int:
    """Downloads the adapter and returns its size in bytes."""
    artifact = await download_artifact(client, job_id, demo.adapter)
    demo.say(f"adapter downloaded to {demo.adapter}: {', '.join(file.path for file in artifact.files)}")
    return artifact.size_bytes


async def _measure(
    demo: Demo, client: Client, job_id: str, rows: Sequence[DemoRow]
) -> tuple[tuple[float, float, float], Sequence[str]]:
    """Exact match of base, tuned, and tuned on shuffled clips, and the tuned model's answers."""
    recipe = demo.recipe
    with demo.progress() as progress:
        bar = progress.add_task("asking about held-out clips", total=len(rows), note="")
        answers = await evaluate(
            client,
            job_id,
            demo.held_out_data,
            rows,
            max_new_tokens=recipe.max_new_tokens,
            done=lambda: progress.advance(bar),
        )
    base, tuned, shuffled = (exact_match(each, rows) for each in (answers.base, answers.tuned, answers.shuffled))
    demo.say(f"{rows[0].question!r}: base says {answers.base[0]!r}, tuned says {answers.tuned[0]!r}")
    demo.say(
        f"exact match: base {base:.2f}, tuned {tuned:.2f}, tuned with clips shuffled among the questions {shuffled:.2f}"
    )
    if base > recipe.most_base_exact_match:
        raise DemoFailed(
            f"the base model knew {base:.2f} of the answers; at most {recipe.most_base_exact_match} was meant"
        )
    if tuned < recipe.least_tuned_exact_match:
        raise DemoFailed(
            f"the tuned model knows {tuned:.2f} of the answers, less than {recipe.least_tuned_exact_match}"
        )
    if shuffled > recipe.most_shuffled_exact_match:
        raise DemoFailed(f"with shuffled clips {shuffled:.2f} are still right: the answers do not come from the video")
    return (base, tuned, shuffled), answers.tuned


async def _check_plain_reload(demo: Demo, rows: Sequence[DemoRow], tuned: Sequence[str]) -> None:
    """Has plain transformers and peft answer the same questions in a process of its own: the same answers must come."""
    questions = demo.folder / "questions.json"
    questions.write_text(
        json.dumps([{"clip": str(demo.held_out_data / row.video), "question": row.question} for row in rows])
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trainer_svc.qlora.plain_reload"),
        *("--model", str(SHIPPED_BASE), "--adapter", str(demo.adapter), "--questions", str(questions)),
        *("--frames", str(demo.recipe.max_frames)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), _RELOAD_TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise DemoFailed(f"plain peft did not answer within {_RELOAD_TIMEOUT_SECONDS} s") from None
    if process.returncode:
        raise DemoFailed(f"plain peft cannot use the adapter:\n{errors.decode(errors='replace')[-2000:]}")
    answers = json.loads(output)
    for row, ours, plain in zip(rows, tuned, answers, strict=True):
        if normalised(ours) != normalised(plain):
            raise DemoFailed(f"{row.video}: the mesh answered {ours!r}, plain peft answers {plain!r}")
    demo.say(f"plain transformers + peft, without Reeltune: the same {len(answers)} answers")
