"""`reeltune train evaluate|evaluation|merge|merged`: what is done with a job's adapter afterwards."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Annotated, Any

import typer
from reeltune.scheduler.v1 import evaluation_pb2, merge_pb2, training_job_pb2
from reeltune.scheduler.v1 import post_training_service_pb2 as pb
from rich.console import Group
from rich.table import Table

from reeltune_cli.client import Client
from reeltune_cli.commands.job_view import job_facts, show_until_final
from reeltune_cli.commands.naming import find_dataset
from reeltune_cli.commands.options import JobArgument, PriorityOption
from reeltune_cli.invocation import Invocation, add_command
from reeltune_cli.tables import columns, enum_word, facts, to_document

FollowOption = Annotated[bool, typer.Option("--watch", "-w", help="Watch it until it is final, then show the result.")]
JobNameOption = Annotated[str, typer.Option("--name", help="A name for the new job.", show_default=False)]


class Weights(StrEnum):
    """What an adapter is merged into."""

    DEQUANTIZED = "dequantized"
    ORIGINAL = "original"


class Control(StrEnum):
    """What the tuned model is asked besides."""

    SHUFFLED_CLIPS = "shuffled-clips"
    REVERSED_FRAMES = "reversed-frames"
    SHUFFLED_FRAMES = "shuffled-frames"


def register(commands: typer.Typer) -> None:
    """Adds the commands to those about training jobs."""
    add_command(commands, "evaluate", evaluate)
    add_command(commands, "evaluation", evaluation)
    add_command(commands, "merge", merge)
    add_command(commands, "merged", merged)


async def evaluate(
    cli: Invocation,
    job: JobArgument,
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", help="By name or id; that of the training otherwise.", show_default=False)
    ] = "",
    split: Annotated[str, typer.Option(help="Rows of this split; those held out otherwise.", show_default=False)] = "",
    rows: Annotated[int, typer.Option(min=0, max=100_000, help="How many; 0 for all.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all that is random.")] = 0,
    control: Annotated[
        list[Control] | None, typer.Option(help="Only these controls; all otherwise.", show_default=False)
    ] = None,
    without_controls: Annotated[bool, typer.Option("--without-controls", help="Ask no controls.")] = False,
    name: JobNameOption = "",
    priority: PriorityOption = None,
    follow: FollowOption = False,
) -> None:
    """Evaluate a job's adapter: base and tuned model answer the same rows, and the answers are measured."""
    controls = [evaluation_pb2.EvaluationControl.Value(f"EVALUATION_CONTROL_{each.name}") for each in control or ()]
    parameters = evaluation_pb2.EvaluationParameters(
        split=split,
        max_rows=rows,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        controls=controls,
        without_controls=without_controls,
    )
    async with cli.client() as client:
        request = pb.EvaluateTrainingJobRequest(
            job_id=job,
            dataset_id=(await find_dataset(client, dataset)).id if dataset else "",
            parameters=parameters,
            name=name,
            priority=priority or 0,
            request_id=str(uuid.uuid4()),
        )
        created = (await client.post_training.EvaluateTrainingJob(request)).job
        if await _is_done(cli, client, created, follow=follow):
            await _show_evaluation(cli, client, created.id)


async def evaluation(cli: Invocation, job: JobArgument) -> None:
    """Show what an evaluation has found."""
    async with cli.client() as client:
        await _show_evaluation(cli, client, job)


async def merge(
    cli: Invocation,
    job: JobArgument,
    into: Annotated[
        Weights, typer.Option(help="The weights trained on, or the base model's own 16-bit ones.")
    ] = Weights.DEQUANTIZED,
    dataset: Annotated[
        str, typer.Option(help="Another dataset to compare on, such as when its own has been deleted.")
    ] = "",
    check_rows: Annotated[int, typer.Option(min=1, max=1000, help="Rows to compare merged model and adapter on.")] = 8,
    name: JobNameOption = "",
    priority: PriorityOption = None,
    follow: FollowOption = False,
) -> None:
    """Merge a job's adapter into its base model; `train download` then brings a model that plain transformers loads."""
    async with cli.client() as client:
        request = pb.MergeTrainingJobRequest(
            job_id=job,
            dataset_id=(await find_dataset(client, dataset)).id if dataset else "",
            parameters=merge_pb2.MergeParameters(
                weights=merge_pb2.MergeWeights.Value(f"MERGE_WEIGHTS_{into.name}"), check_rows=check_rows
            ),
            name=name,
            priority=priority or 0,
            request_id=str(uuid.uuid4()),
        )
        created = (await client.post_training.MergeTrainingJob(request)).job
        if await _is_done(cli, client, created, follow=follow):
            await _show_merge(cli, client, created.id)


async def merged(cli: Invocation, job: JobArgument) -> None:
    """Show what a merge has made, and how near it is to the adapter."""
    async with cli.client() as client:
        await _show_merge(cli, client, job)


async def _is_done(cli: Invocation, client: Client, job: training_job_pb2.TrainingJob, *, follow: bool) -> bool:
    """Tells whether there is a result to show; shows the job itself otherwise."""
    if follow:
        cli.note(f"job {job.id} is queued; Ctrl-C leaves it running")
        job = await show_until_final(cli, client, job.id)
        if job.has_artifact:
            return True
    cli.answer({"job": to_document(job)}, job_facts(job))
    return False


async def _show_evaluation(cli: Invocation, client: Client, job_id: str) -> None:
    found = (await client.post_training.GetEvaluation(pb.GetEvaluationRequest(job_id=job_id))).evaluation
    cli.answer({"evaluation": to_document(found)}, _evaluation_view(found))


async def _show_merge(cli: Invocation, client: Client, job_id: str) -> None:
    made = (await client.post_training.GetMerge(pb.GetMergeRequest(job_id=job_id))).merge
    cli.answer({"merge": to_document(made)}, _merge_view(made))


def _evaluation_view(found: evaluation_pb2.Evaluation) -> Group:
    names = [_condition(result.condition) for result in found.results]
    results = [
        (
            name,
            result.rows,
            *map(_estimate, (result.exact_match, result.rouge_l, result.token_f1)),
            f"{result.loss:.4f}",
        )
        for name, result in zip(names, found.results, strict=True)
    ]
    differences = [
        (f"{_condition(pair.condition)} - {_condition(pair.against)}",
         *(_estimate(each, "+") for each in (pair.exact_match, pair.rouge_l, pair.token_f1)))
        for pair in found.comparisons
    ]  # fmt: skip
    questions = [
        (each.question, each.rows, *(f"{value:.3f}" for value in each.exact_match)) for each in found.questions
    ]
    parts: list[Any] = [
        facts(
            [
                ("evaluation", found.job_id),
                ("of", found.source_job_id),
                ("rows", f"{found.rows} of {found.total_rows}, split {found.split}"),
            ]
        ),
        columns(("ANSWERS OF", "ROWS", "EXACT MATCH", "ROUGE-L", "TOKEN F1", "LOSS"), results),
        columns(("DIFFERENCE", "EXACT MATCH", "ROUGE-L", "TOKEN F1"), differences),
    ]
    if questions:
        parts.append(columns(("EXACT MATCH BY QUESTION", "ROWS", *(name.upper() for name in names)), questions))
    parts += _tag_tables(found, names)
    parts.append(facts([("note", note) for note in found.notes]))
    return Group(*parts)


def _tag_tables(found: evaluation_pb2.Evaluation, names: list[str]) -> list[Table]:
    """A table of what was gained by tag, and one of each measure under every condition."""
    if not found.tags:
        return []
    labels = [each.tag or "(no tag)" for each in found.tags]
    gains = [
        (
            label,
            each.rows,
            *(_estimate(value, "+") for value in (each.gain.exact_match, each.gain.rouge_l, each.gain.token_f1)),
        )
        for label, each in zip(labels, found.tags, strict=True)
    ]
    tables = [columns(("GAINED BY TAG", "ROWS", "EXACT MATCH", "ROUGE-L", "TOKEN F1"), gains)]
    for measure, title in (("exact_match", "EXACT MATCH"), ("rouge_l", "ROUGE-L"), ("token_f1", "TOKEN F1")):
        rows = [
            (label, each.rows, *(f"{value:.3f}" for value in getattr(each, measure)))
            for label, each in zip(labels, found.tags, strict=True)
        ]
        tables.append(columns((f"{title} BY TAG", "ROWS", *(name.upper() for name in names)), rows))
    return tables


def _merge_view(made: merge_pb2.Merge) -> Table:
    return facts(
        [
            ("merge", made.job_id),
            ("of", made.source_job_id),
            ("into", enum_word(merge_pb2.MergeWeights, made.weights, "MERGE_WEIGHTS_") + " weights, bf16"),
            ("layers", made.layers),
            ("error of the update", f"{made.update_error:.4f}"),
            ("rows compared", made.rows),
            ("logits differ from adapter", f"{made.adapter_logit_difference:.4g}"),
            ("logits differ from base", f"{made.base_logit_difference:.4g}"),
            ("tokens as with adapter", f"{made.adapter_agreement:.1%}"),
            ("tokens as base", f"{made.base_agreement:.1%}"),
            ("loss with adapter", f"{made.adapter_loss:.4f}"),
            ("loss merged", f"{made.merged_loss:.4f}"),
            *(("note", note) for note in made.notes),
            ("model", f"reeltune train download {made.job_id}"),
        ]
    )


def _condition(condition: int) -> str:
    return enum_word(evaluation_pb2.EvaluationCondition, condition, "EVALUATION_CONDITION_")


def _estimate(value: evaluation_pb2.Estimate, sign: str = "") -> str:
    return f"{value.mean:{sign}.3f} [{value.low:{sign}.3f}, {value.high:{sign}.3f}]"
