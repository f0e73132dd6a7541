"""What the steps of a run work on: made once, before the first of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Any

import torch

from trainer_svc.qlora.base_sharding import EvenBatches, held_share, shard_base
from trainer_svc.qlora.batch_stream import BatchStream, FrameSource
from trainer_svc.qlora.chat_labels import ends_with, how_answers_are_found, render
from trainer_svc.qlora.checkpoint import TrainState
from trainer_svc.qlora.data_processor import Batch, DataProcessor
from trainer_svc.qlora.dataset_rows import Sample
from trainer_svc.qlora.decode_pool import DecodePool
from trainer_svc.qlora.encoder_cache import EncoderCache, open_encoder_cache
from trainer_svc.qlora.epoch_samples import frame_cache_bytes, samples_and_groups
from trainer_svc.qlora.length_buckets import LengthBuckets
from trainer_svc.qlora.lookout import BrokenOffError
from trainer_svc.qlora.loss import losses_by_sample, summed_loss
from trainer_svc.qlora.messages import Log, Started, Starting
from trainer_svc.qlora.model_loader import BaseModel
from trainer_svc.qlora.optimizers import make_optimizer
from trainer_svc.qlora.qlora_injector import TrainableReport, inject, trainable
from trainer_svc.qlora.rank_allocation import check_least_ranks
from trainer_svc.qlora.ranks import RankedRun, Ranks
from trainer_svc.qlora.run_context import RunContext
from trainer_svc.qlora.run_identity import run_identity
from trainer_svc.qlora.sample_lengths import measure_lengths
from trainer_svc.qlora.sampler import SamplePlan
from trainer_svc.qlora.spec import SpecError, TrainingSpec


@dataclass(frozen=True, slots=True)
class Session:
    """What the steps work on."""

    run: RunContext
    spec: TrainingSpec
    base: BaseModel
    state: TrainState
    plan: SamplePlan
    training: list[Sample]
    held_out: list[Sample]
    pool: DecodePool
    identity: dict[str, Any]
    total_steps: int
    ranks: Ranks
    encoder: EncoderCache | None
    """Where the vision encoder is run apart."""
    shares_base: bool

    @property
    def max_tokens(self) -> int:
        return self.spec.max_tokens or self.base.max_positions

    @property
    def own(self) -> RunContext:
        """The run as this process alone knows it."""
        return self.run.own if isinstance(self.run, RankedRun) else self.run

    def clips_of(self, step: int) -> int:
        """How many clips a step shows, at all ranks together."""
        groups = replace(self.plan, rank=0, ranks=1).micro_batches(step)
        return sum(len(self.training[index].clips) for group in groups for index in group)

    def loss(self, batch: Batch) -> torch.Tensor:
        """See `summed_loss`."""
        whole = batch if self.encoder is None else self.encoder.complete(batch)
        return summed_loss(self.state.model, whole, self.base.device)

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """See `losses_by_sample`."""
        whole = batch if self.encoder is None else self.encoder.complete(batch)
        return losses_by_sample(self.state.model, whole, self.base.device)

    @property
    def even_batches(self) -> EvenBatches:
        return EvenBatches(self.ranks, self.shares_base, lambda: _first_batch(self))


def prepare_session(
    run: RunContext,
    spec: TrainingSpec,
    base: BaseModel,
    training: list[Sample],
    held_out: list[Sample],
    pool: DecodePool,
    ranks: Ranks,
    shares_base: bool,
) -> tuple[Session, TrainableReport]:
    wanted = spec.optimization
    _tell_of_answers(run, base, training[0])
    model, report = inject(base, spec.lora, seed=wanted.seed, gradient_checkpointing=wanted.gradient_checkpointing)
    check_least_ranks(model, base.family, spec)
    ranks.copy_from_first(trainable(model).values())
    ranks.seed(wanted.seed)
    if shares_base:
        shard_base(model, base.family, ranks, base.device)
        run.report(Log("info", f"the base is shared out: {held_share(model):.0%} of its layers at the first device"))
    optimizer = make_optimizer(trainable(model).values(), wanted)
    scaler = torch.amp.GradScaler(base.device.type, enabled=base.compute_dtype == torch.float16)
    accumulation = wanted.gradient_accumulation_steps
    plan = SamplePlan(len(training), wanted.batch_size, accumulation, wanted.seed, ranks.rank, ranks.count)
    if wanted.batch_by_length:
        announce = partial(run.report, Starting("adapter"))
        measure = partial(measure_lengths, training, pool, spec.sampling, base.family, announce)
        lengths = ranks.decide(measure() if ranks.is_first else None)
        plan = replace(plan, buckets=LengthBuckets(lengths, wanted.batch_size, wanted.seed))
    total_steps = plan.total_steps(wanted.epochs, wanted.max_steps)
    if spec.lora.rank_allocation.warmup_steps >= total_steps:
        raise SpecError(
            "lora.rank_allocation.warmup_steps",
            f"is not less than the {total_steps} steps that the run has",
            "lower it, or train longer",
        )
    return (
        Session(
            run=run,
            spec=spec,
            base=base,
            state=TrainState(model, optimizer, scaler, decoder=pool.decoder),
            plan=plan,
            training=training,
            held_out=held_out,
            pool=pool,
            identity=run_identity(run, spec, base, [*training, *held_out] if ranks.is_first else []),
            total_steps=total_steps,
            ranks=ranks,
            # Decided here and not after a resume, which may find layers of the encoder without an adapter: the run that
            # was never stopped has decided here, too.
            encoder=open_encoder_cache(run, spec, base, pool.decoder),
            shares_base=shares_base,
        ),
        report,
    )


def _tell_of_answers(run: RunContext, base: BaseModel, sample: Sample) -> None:
    """By the first sample. Raises what encoding it would raise of its conversation."""
    rendered = render(base.processor, sample.turns, f"sample {sample.sample_id}")
    run.report(Log("info", how_answers_are_found(base.processor, rendered)))
    if not ends_with(base.processor, rendered, base.end_tokens):
        words = "the chat template ends an answer with none of the tokens that end one when the model is asked"
        run.report(Log("warning", f"{words}: the tuned model will not learn to stop; mend its chat_template.jinja"))


def started(session: Session, report: TrainableReport, start_step: int) -> Started:
    return Started(
        total_steps=session.total_steps,
        start_step=start_step,
        trainable_parameters=report.parameters,
        total_parameters=session.base.audit.parameters + report.parameters,
        samples=len(session.training),
        eval_samples=len(session.held_out),
        device=session.ranks.name_of(session.base),
        decoder=session.pool.decoder,
        quantized_layers=session.base.audit.quantized_layers,
    )


def training_stream(session: Session, start_step: int) -> BatchStream:
    runtime = session.spec.runtime
    steps = range(start_step, session.total_steps)
    samples, groups = samples_and_groups(session.training, session.plan, steps, session.spec)
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=frame_cache_bytes(session.spec))
    processor = DataProcessor(session.base.processor, max_tokens=session.max_tokens)
    ahead = runtime.prefetch_batches
    return BatchStream(
        samples, groups, source, processor, ahead=ahead, cache=session.encoder, look_up=_stop_while_waiting(session)
    )


def calibration_stream(session: Session, step: int, batches: int) -> BatchStream:
    """The batches that training on one device would take from `step` on, from a source and a processor of their own.
    Raises `BrokenOffError` from a wait, when the run is to stop."""
    plan = replace(session.plan, rank=0, ranks=1)
    samples, ahead = samples_and_groups(session.training, plan, count(step), session.spec)
    source = FrameSource(session.pool, session.spec.sampling, cache_bytes=0)
    processor = DataProcessor(copy.deepcopy(session.base.processor), max_tokens=session.max_tokens)
    groups, look_up = list(islice(ahead, batches)), _stop_while_waiting(session)
    return BatchStream(samples, groups, source, processor, ahead=2, cache=session.encoder, look_up=look_up)


def _stop_while_waiting(session: Session) -> Callable[[], None] | None:
    """For a clip that hangs. Ranks only stop together, between two steps: there the clip's own deadline has to do."""
    if session.ranks.count > 1:
        return None

    def look_up() -> None:
        if reason := session.run.stop_requested():
            raise BrokenOffError(reason)

    return look_up


def _first_batch(session: Session) -> Batch:
    """For a rank that only keeps step with the others."""
    with calibration_stream(session, 0, 1) as stream:
        return next(stream)[0]
