"""How a training job looks: its facts, and its life as it happens."""

from __future__ import annotations

import json

from google.protobuf import json_format
from google.protobuf.message import Message
from reeltune.scheduler.v1 import job_event_pb2, queue_status_pb2, recipe_pb2, training_job_pb2
from reeltune.scheduler.v1 import training_service_pb2 as pb
from rich.table import Table

from reeltune_cli.bars import StepBar, step_bar
from reeltune_cli.client import Client, ClientError
from reeltune_cli.client.watch import watch_job
from reeltune_cli.invocation import Invocation, printable
from reeltune_cli.tables import enum_word, facts, local_time, size


def job_state(job: training_job_pb2.TrainingJob) -> str:
    """Returns the state in a word or two."""
    state = enum_word(training_job_pb2.JobState, job.state, "JOB_STATE_")
    return f"{state}, paused" if job.is_paused else state


def job_facts(job: training_job_pb2.TrainingJob, *, with_parameters: bool = False) -> Table:
    """Returns what there is to know of a job."""
    progress = job.progress
    steps = f"{progress.step}/{progress.total_steps}" if progress.total_steps else ""
    pairs: list[tuple[str, object]] = [
        ("id", job.id),
        ("name", job.name),
        ("state", job_state(job)),
        ("reason", _reason(job.reason)),
        ("message", job.message),
        ("queue", queue_place(job)),
        ("waits", job.queue.message),
        ("starts about", local_time(job.queue.estimated_start_time)),
        ("priority", job.priority or ""),
        ("phase", progress.phase),
        ("steps", steps),
        ("loss", f"{progress.loss:.4f}" if progress.HasField("loss") else ""),
        ("attempt", job.attempt or ""),
        ("model", job.model_id),
        ("dataset", dataset_words(job.dataset_id, job.dataset_version)),
        ("of job", job.source_job_id),
        ("result" if job.source_job_id else "adapter", _way_to_artifact(job)),
        ("created", local_time(job.create_time)),
        ("started", local_time(job.start_time)),
        ("ended", local_time(job.end_time)),
    ]
    return facts([*pairs, *_flat(job.post_training), *_flat(job.parameters)] if with_parameters else pairs)


def dataset_words(dataset_id: str, version: int) -> str:
    """Returns a dataset and its version, where that is known."""
    return f"{dataset_id}, version {version}" if version else dataset_id


def _way_to_artifact(job: training_job_pb2.TrainingJob) -> str:
    """Returns the command that shows what the job made; nothing while there is nothing."""
    verbs = {recipe_pb2.RECIPE_EVALUATION: "evaluation", recipe_pb2.RECIPE_MERGE: "merged"}
    return f"reeltune train {verbs.get(job.recipe, 'download')} {job.id}" if job.has_artifact else ""


def queue_place(job: training_job_pb2.TrainingJob) -> str:
    """Returns the place in the queue and why the job waits, in a few words; nothing for one that is not in it."""
    if not job.HasField("queue"):
        return ""
    return _queue_words(job.queue)


def _queue_words(queue: queue_status_pb2.QueueStatus) -> str:
    reason = enum_word(queue_status_pb2.WaitReason, queue.reason, "WAIT_REASON_")
    return f"{queue.position}, {reason}" if queue.position else reason


async def show_until_final(cli: Invocation, client: Client, job_id: str) -> training_job_pb2.TrainingJob:
    """Shows a job's progress and what happens to it until it is final, and returns it as it is then.

    Raises:
        ClientError: the job failed.
    """
    with step_bar(cli.notes) as bar:
        async for message in watch_job(client, job_id):
            if message.WhichOneof("update") == "snapshot":
                _show_progress(bar, message.snapshot.progress, job_state(message.snapshot))
            elif message.WhichOneof("update") == "queue":
                _show_queue(cli, bar, message.queue)
            else:
                _show_event(cli, bar, message.event)
    job = (await client.training.GetTrainingJob(pb.GetTrainingJobRequest(job_id=job_id))).job
    if job.state == training_job_pb2.JOB_STATE_FAILED:
        raise ClientError(
            f"job {job.id} failed: {job.message or _reason(job.reason)}",
            training_job_pb2.StateReason.Name(job.reason).removeprefix("STATE_REASON_"),
            f"see its log: reeltune train logs {job.id}",
        )
    return job


def _show_event(cli: Invocation, bar: StepBar, event: job_event_pb2.JobEvent) -> None:
    match event.WhichOneof("event"):
        case "progress":
            _show_progress(bar, event.progress)
        case "state_change":
            change = event.state_change
            why = ": ".join(filter(None, (_reason(change.reason), change.message)))
            state = enum_word(training_job_pb2.JobState, change.to, "JOB_STATE_")
            cli.note(f"{local_time(event.create_time)}  {state}{f' ({printable(why)})' if why else ''}")
        case "checkpoint":
            saved = event.checkpoint
            cli.note(f"{local_time(event.create_time)}  checkpoint at step {saved.step}, {size(saved.size_bytes)}")
        case "predictions":
            for rank, found in (("best", event.predictions.best), ("worst", event.predictions.worst)):
                for each in found:
                    said = f"{each.generated!r}, expected {each.expected!r}"
                    text = f"step {event.predictions.step}, {rank} {each.sample_id}, loss {each.loss:.4f}: {said}"
                    cli.note(f"{local_time(event.create_time)}  {printable(text)}")
        case "log" if event.log.level >= job_event_pb2.LOG_LEVEL_WARNING:
            cli.note(f"{local_time(event.create_time)}  {printable(event.log.text)}")


def _show_queue(cli: Invocation, bar: StepBar, queue: queue_status_pb2.QueueStatus) -> None:
    start = local_time(queue.estimated_start_time)
    note = (
        f"in the queue: {_queue_words(queue)}{f', starts about {start}' if start else ''} ({printable(queue.message)})"
    )
    bar.show("queued", 0, None, _queue_words(queue))
    cli.note(note)


def _show_progress(bar: StepBar, progress: training_job_pb2.JobProgress, title: str = "") -> None:
    loss = f"  loss {progress.loss:.4f}" if progress.HasField("loss") else ""
    note = f"step {progress.step}/{progress.total_steps}{loss}" if progress.total_steps else ""
    bar.show(progress.phase or title, progress.step, progress.total_steps or None, note)


def _reason(number: int) -> str:
    if number == training_job_pb2.STATE_REASON_UNSPECIFIED:
        return ""
    return enum_word(training_job_pb2.StateReason, number, "STATE_REASON_")


def _flat(message: Message, prefix: str = "") -> list[tuple[str, object]]:
    """Returns the fields of nested messages as `lora.rank`, as `--set` takes them."""
    pairs: list[tuple[str, object]] = []
    document = json_format.MessageToDict(message, preserving_proto_field_name=True)
    for name, value in document.items():
        if isinstance(value, dict):
            pairs += _flat(getattr(message, name), f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return pairs
