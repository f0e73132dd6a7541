// A job as its stream tells it: the job as it is now, its curves, its log and what happened to it.
import type { JobEvent, LogLine, StateChange } from "@/gen/reeltune/scheduler/v1/job_event_pb";
import type { MetricBucket, MetricSeries } from "@/gen/reeltune/scheduler/v1/metric_series_pb";
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
  /** Where several measurements are one point: the lowest of them, which is of some step from `from` to `to`. */
  evalLows?: Low[];
}

export interface Low {
  from: number;
  to: number;
  value: number;
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
    const bucketsOf = (name: string) => series.find((one) => one.name === name)?.buckets ?? [];
    const trained = bucketsOf("loss");
    for (const bucket of standing(trained)) this.#measure(Number(bucket.lastStep), { loss: bucket.last });
    // Held-out rows are measured more rarely: of an attempt that went back, what none has measured anew is there still.
    const end = wentBack(trained) ? trained.at(-1)!.lastStep : undefined;
    const evaluated = standing(bucketsOf("eval_loss")).filter((one) => end === undefined || one.lastStep <= end);
    for (const bucket of evaluated) this.#measure(Number(bucket.lastStep), { eval_loss: bucket.last });
    this.curves.evalLows = evaluated.flatMap(lowOf);
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

  /** Forgets the steps from a place on. */
  #cut(place: number): void {
    const { steps, loss, evalLoss, evalLows } = this.curves;
    const from = steps[place];
    if (from === undefined) return;
    for (const column of [steps, loss, evalLoss]) column.length = place;
    if (evalLows) this.curves.evalLows = evalLows.filter((low) => low.to < from);
  }

  #measure(step: number, values: Record<string, number>): void {
    for (const [name, value] of Object.entries(values)) this.latest.set(name, value);
    if (!("loss" in values) && !("eval_loss" in values)) return;
    const { steps, loss, evalLoss } = this.curves;
    let place = steps.length;
    while (place > 0 && steps[place - 1]! >= step) place -= 1;
    if (steps[place] !== step) {
      // An attempt that goes on from a checkpoint measures steps anew: what it left behind is no part of the curve.
      if ("loss" in values) this.#cut(place);
      steps.splice(place, 0, step);
      loss.splice(place, 0, null);
      evalLoss.splice(place, 0, null);
    } else if ("loss" in values && loss[place] !== null) {
      this.#cut(place);
      steps.push(step);
      loss.push(null);
      evalLoss.push(null);
    }
    if ("loss" in values) loss[place] = finite(values.loss);
    if ("eval_loss" in values) evalLoss[place] = finite(values.eval_loss);
  }
}

export function isFinal(state: JobState): boolean {
  return state === JobState.COMPLETED || state === JobState.STOPPED || state === JobState.FAILED;
}

/** Buckets in the order of recording, without those of which a later attempt has measured steps anew. */
function standing(buckets: readonly MetricBucket[]): MetricBucket[] {
  const kept: MetricBucket[] = [];
  for (const bucket of buckets) {
    const from = bucket.firstStep < bucket.lastStep ? bucket.firstStep : bucket.lastStep;
    while (kept.length > 0 && kept.at(-1)!.lastStep >= from) kept.pop();
    kept.push(bucket);
  }
  return kept;
}

function wentBack(buckets: readonly MetricBucket[]): boolean {
  return buckets.some(
    ({ firstStep, lastStep }, index) =>
      lastStep < firstStep || (index > 0 && firstStep <= buckets[index - 1]!.lastStep),
  );
}

/** The lowest value of a bucket, where it is not its last; nothing where an attempt went back within it. */
function lowOf({ firstStep, lastStep, min, last }: MetricBucket): Low[] {
  if (min === undefined || !Number.isFinite(min) || min === last || lastStep < firstStep) return [];
  return [{ from: Number(firstStep), to: Number(lastStep), value: min }];
}

/** Over so many parts of the chart's width the weight of a value falls away: smoothing of 0.98 is as wide as a quarter of it. */
const SMOOTHED_PARTS = 200;

/**
 * An exponential mean, as wide as `weight` (0: none, towards 1: very); gaps stay gaps.
 *
 * It goes by `steps`, of which the chart shows `range`, and not by points: runs that were measured more or less often are smoothed alike.
 */
export function smoothed(
  steps: readonly number[],
  values: readonly (number | null)[],
  weight: number,
  range = (steps.at(-1) ?? 0) - (steps[0] ?? 0),
): (number | null)[] {
  let sum = 0;
  let share = 0;
  let before = 0;
  return values.map((value, index) => {
    if (value === null) return null;
    const step = steps[index]!;
    const kept = range > 0 ? weight ** (((step - before) / range) * SMOOTHED_PARTS) : 0;
    before = step;
    // Divided by what the weights sum up to: without that the mean would begin at 0 (as in Adam, arXiv:1412.6980).
    sum = share > 0 ? kept * sum + value : value;
    share = share > 0 ? kept * share + 1 : 1;
    return sum / share;
  });
}

function finite(value: number | undefined): number | null {
  return value !== undefined && Number.isFinite(value) ? value : null;
}
