"""What a trainer counts. It has one job at a time, so that no label need say which: the scheduler knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from trainer_svc.domain.attempt import Recipe

REGISTRY = CollectorRegistry()
"""Shown by the service as a whole."""

JOBS = Gauge("reeltune_trainer_running_jobs", "Jobs that run here now", ["kind"], registry=REGISTRY)
PROGRESS = Gauge("reeltune_trainer_job_progress_ratio", "Share of the running job that is done", registry=REGISTRY)
LOSS = Gauge("reeltune_trainer_job_loss", "Newest loss of the running job", registry=REGISTRY)
ATTEMPTS = Counter(
    "reeltune_trainer_attempts_ended_total",
    "Attempts that ended here: by the job's state after them, FENCED, or ABANDONED",
    ["state"],
    registry=REGISTRY,
)
STEPS = Counter("reeltune_trainer_steps_total", "Steps made", ["kind"], registry=REGISTRY)
STEP_SECONDS = Counter(
    "reeltune_trainer_step_seconds_total",
    "Time of the steps made, by part: waiting for data, forward, backward, optimizer, other",
    ["part"],
    registry=REGISTRY,
)
SAMPLES = Counter("reeltune_trainer_samples_total", "Samples trained on", registry=REGISTRY)
CLIPS = Counter("reeltune_trainer_clips_total", "Clips trained on", registry=REGISTRY)
TOKENS = Counter("reeltune_trainer_tokens_total", "Tokens trained on", registry=REGISTRY)
CHILDREN = Counter("reeltune_trainer_children_started_total", "Processes started", ["purpose"], registry=REGISTRY)
CHILDREN_LOST = Counter(
    "reeltune_trainer_children_lost_total",
    "Processes that ended without a word, or had to be killed because they made no progress",
    ["purpose", "how"],
    registry=REGISTRY,
)
SCHEDULER_REACHED = Gauge(
    "reeltune_trainer_scheduler_reached",
    "1 when the scheduler answered the last claim or heartbeat; 0 when it did not, or took no registration",
    registry=REGISTRY,
)
UTILIZATION = Gauge(
    "reeltune_trainer_device_utilization_ratio",
    "Share of the time that the devices of the running job compute; read while it trains",
    ["device"],
    registry=REGISTRY,
)
MEMORY = Gauge("reeltune_trainer_device_memory_bytes", "Memory that it uses on them", ["device"], registry=REGISTRY)
TEMPERATURE = Gauge("reeltune_trainer_device_temperature_celsius", "Their temperature", ["device"], registry=REGISTRY)
POWER = Gauge("reeltune_trainer_device_power_watts", "What they draw", ["device"], registry=REGISTRY)
PROMPT_TOKENS = Counter(
    "reeltune_trainer_prompt_tokens_total", "Tokens of questions and their clips that were answered", registry=REGISTRY
)
ANSWER_TOKENS = Counter("reeltune_trainer_answer_tokens_total", "Tokens generated", registry=REGISTRY)
ANSWER_SECONDS = Histogram(
    "reeltune_trainer_answer_seconds",
    "Time from when the model began on a question until its last token",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    registry=REGISTRY,
)
MODEL_LOAD_SECONDS = Histogram(
    "reeltune_trainer_model_load_seconds",
    "Time until a base model was ready for questions",
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    registry=REGISTRY,
)

SCHEDULER_REACHED.set(float("nan"))  # not asked yet
LOSS.set(float("nan"))
_PARTS = ("data", "forward", "backward", "optimizer")

# Told as 0 from the start: of a counter that appears with its first event nobody sees the rise.
for _purpose in ("training", "inference"):
    for _how in ("crashed", "hung"):
        CHILDREN_LOST.labels(_purpose, _how)
for _recipe in Recipe:
    JOBS.labels(_recipe)
    STEPS.labels(_recipe)

for _part in (*_PARTS, "other"):
    STEP_SECONDS.labels(_part)
for _state in ("COMPLETED", "STOPPED", "FAILED", "QUEUED", "FENCED", "ABANDONED"):
    ATTEMPTS.labels(_state)

_DEVICE = {
    "device_utilization_percent": (UTILIZATION, 0.01),
    "device_memory_bytes": (MEMORY, 1.0),
    "device_temperature_celsius": (TEMPERATURE, 1.0),
    "device_power_watts": (POWER, 1.0),
}


def show_questions(registry: CollectorRegistry, waiting: Callable[[], int], is_taken: Callable[[], bool]) -> None:
    """Shows how many questions wait for their turn, and whether one has it."""
    waits = Gauge("reeltune_trainer_questions_waiting", "Questions that wait for their turn", registry=registry)
    waits.set_function(waiting)
    running = Gauge("reeltune_trainer_questions_running", "Questions being answered, 0 or 1", registry=registry)
    running.set_function(is_taken)


def count_steps(steps: int, values: Mapping[str, float]) -> None:
    """Adds up `steps` steps, of which `values` are the means, under the names of the training library.

    As sums, not as means: of sums any time's rate can be told, over any number of trainers.
    """
    each = values.get("step_seconds", 0.0)
    total = each * steps
    known = 0.0
    for part in _PARTS:
        seconds = max(0.0, values.get(f"{part}_seconds", 0.0))
        known += seconds
        STEP_SECONDS.labels(part).inc(seconds * steps)
    STEP_SECONDS.labels("other").inc(max(0.0, each - known) * steps)
    for name, counter in (("samples", SAMPLES), ("clips", CLIPS), ("tokens", TOKENS)):
        counter.inc(max(0.0, values.get(f"{name}_per_second", 0.0)) * total)


def show_device(values: Mapping[str, float]) -> None:
    """Shows what a device told: `device_power_watts` of all together, `device_power_watts.1` of the second."""
    for name, value in values.items():
        what, _, index = name.partition(".")
        if what in _DEVICE:
            gauge, unit = _DEVICE[what]
            gauge.labels(index or "all").set(value * unit)


def forget_job() -> None:
    """The job has ended: nothing is told of it, or of its devices, any more."""
    PROGRESS.set(0)
    LOSS.set(float("nan"))
    for gauge, _ in _DEVICE.values():
        gauge.clear()
