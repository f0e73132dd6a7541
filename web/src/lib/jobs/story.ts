// A job as its stream tells it: the job as it is now, its curves, its log and what happened to it.
import type { JobEvent, LogLine, StateChange } from "@/gen/reeltune/scheduler/v1/job_event_pb";
import type { MetricSeries } from "@/gen/reeltune/scheduler/v1/metric_series_pb";
import type { Predictions } from "@/gen/reeltune/scheduler/v1/prediction_pb";
import type { WatchTrainingJobResponse } from "@/gen/reeltune/scheduler/v1/training_history_pb";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { timestampMs } from "@bufbuild/protobuf/wkt";

/** Lines of the log that a page keeps; older ones are in the log that can be downloaded. */
const KEPT_LINES = 5_000;

export interface Line extends Pick<LogLine, "level" | "text"> {
  sequence: bigint;
  timeMs: number;
}

export interface Happening {
  sequence: bigint;
  timeMs: number;
  attempt: number;
  what: { kind: "state"; change: StateChange } | { kind: "checkpoint"; step: number; sizeBytes: bigint };
}

/** Columns as charts want them; `NaN`-free, `null` where nothing was measured. */
export interface Curves {
  steps: number[];
  loss: (number | null)[];
  evalLoss: (number | null)[];
}

export class JobStory {
  job: TrainingJob | undefined;
  /** What to go on after, when the stream breaks. */
  sequence = 0n;
  readonly curves: Curves = { steps: [], loss: [], evalLoss: [] };
  /** The newest value of each metric. */
  readonly latest = new Map<string, number>();
  readonly lines: Line[] = [];
  readonly happenings: Happening[] = [];
  /** In the order of their steps. */
  readonly predictions: Predictions[] = [];
  /** Changes whenever something does. */
  version = 0;

  /** Begins with what was measured before the stream's first event. */
  begin(series: readonly MetricSeries[]): void {
    for (const name of ["loss", "eval_loss"]) {
      for (const bucket of series.find((one) => one.name === name)?.buckets ?? [])
        this.#measure(Number(bucket.lastStep), { [name]: bucket.last });
    }
    this.version += 1;
  }

  take(message: WatchTrainingJobResponse): void {
    this.version += 1;
    const { update } = message;
    if (update.case === "snapshot") this.job = update.value;
    else if (update.case === "event") this.#happen(update.value);
    else if (update.case === "queue" && this.job) this.job = { ...this.job, queue: update.value };
    // A snapshot tells how the job is now, and promises nothing about the events before it.
    if (update.case !== "snapshot" && message.sequence > this.sequence) this.sequence = message.sequence;
  }

  /** Takes the job as it was read anew: events tell what changed, and not all that goes with it. */
  renew(job: TrainingJob): void {
    if (this.job && job.sequence < this.job.sequence) return;
    this.job = job;
    this.version += 1;
  }

  #happen(event: JobEvent): void {
    const { sequence, attempt } = event;
    const timeMs = event.createTime ? timestampMs(event.createTime) : 0;
    const { event: what } = event;
    if (what.case === "log") {
      this.lines.push({ level: what.value.level, text: what.value.text, sequence, timeMs });
      if (this.lines.length > KEPT_LINES * 1.2) this.lines.splice(0, this.lines.length - KEPT_LINES);
    } else if (what.case === "metrics") {
      this.#measure(Number(what.value.step), what.value.values);
    } else if (what.case === "progress" && this.job) {
      this.job = { ...this.job, progress: what.value };
    } else if (what.case === "stateChange") {
      this.happenings.push({ sequence, timeMs, attempt, what: { kind: "state", change: what.value } });
      this.#move(what.value, event);
    } else if (what.case === "predictions") {
      // An attempt that goes on from a checkpoint answers anew.
      const kept = this.predictions.findIndex((one) => one.step >= what.value.step);
      if (kept >= 0) this.predictions.length = kept;
      this.predictions.push(what.value);
    } else if (what.case === "checkpoint") {
      this.happenings.push({
        sequence,
        timeMs,
        attempt,
        what: { kind: "checkpoint", step: Number(what.value.step), sizeBytes: what.value.sizeBytes },
      });
    }
  }

  #move(change: StateChange, { sequence, attempt }: JobEvent): void {
    // The stream begins with the job as it is now; the history that follows must not take it back.
    if (!this.job || sequence <= this.job.sequence) return;
    this.job = {
      ...this.job,
      state: change.to,
      reason: change.reason,
      message: change.message,
      sequence,
      attempt: attempt || this.job.attempt,
    };
  }

  #measure(step: number, values: Record<string, number>): void {
    for (const [name, value] of Object.entries(values)) this.latest.set(name, value);
    if (!("loss" in values) && !("eval_loss" in values)) return;
    const { steps, loss, evalLoss } = this.curves;
    let place = steps.length;
    while (place > 0 && steps[place - 1]! >= step) place -= 1;
    if (steps[place] !== step) {
      // An attempt that goes on from a checkpoint measures steps anew: what it left behind is no part of the curve.
      if (place < steps.length && "loss" in values) for (const column of [steps, loss, evalLoss]) column.length = place;
      steps.splice(place, 0, step);
      loss.splice(place, 0, null);
      evalLoss.splice(place, 0, null);
    } else if ("loss" in values && loss[place] !== null) {
      for (const column of [steps, loss, evalLoss]) column.length = place + 1;
      evalLoss[place] = null;
    }
    if ("loss" in values) loss[place] = finite(values.loss);
    if ("eval_loss" in values) evalLoss[place] = finite(values.eval_loss);
  }
}

export function isFinal(state: JobState): boolean {
  return state === JobState.COMPLETED || state === JobState.STOPPED || state === JobState.FAILED;
}

/** An exponential mean, as wide as `weight` (0: none, towards 1: very); gaps stay gaps. */
export function smoothed(values: readonly (number | null)[], weight: number): (number | null)[] {
  let mean = 0;
  let share = 0;
  return values.map((value) => {
    if (value === null) return null;
    // Without the correction the mean would begin at 0 (as in Adam, arXiv:1412.6980).
    mean = weight * mean + (1 - weight) * value;
    share = weight * share + (1 - weight);
    return mean / share;
  });
}

function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}
