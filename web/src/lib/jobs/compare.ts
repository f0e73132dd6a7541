// Several jobs side by side.
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import type { Curves, Low } from "./story";

export interface Run {
  job: TrainingJob;
  curves: Curves;
}

/** A run with its place among those that were asked for, which its colour and its number go by: also while others are missing. */
export interface Placed extends Run {
  place: number;
}

/** As many as can be told apart on one chart. */
export const MOST_RUNS = 10;

/** The ids in an address, each once; what is no job's id is left out. */
export function idsFrom(text: string): string[] {
  const ids = text.split(",").filter((id) => /^job_[0-9A-Z]{26}$/.test(id));
  return [...new Set(ids)].slice(0, MOST_RUNS);
}

export type Curve = "loss" | "evalLoss";

/** One column of steps for all, and each run's values at those; `null` where it measured nothing. */
export function overlaid(runs: readonly Curves[], curve: Curve): { steps: number[]; values: (number | null)[][] } {
  const steps = [...new Set(runs.flatMap((run) => run.steps.filter((_, index) => run[curve][index] !== null)))].sort(
    (one, other) => one - other,
  );
  const place = new Map(steps.map((step, index) => [step, index]));
  const values = runs.map((run) => {
    const column = steps.map((): number | null => null);
    run.steps.forEach((step, index) => {
      const at = place.get(step);
      if (at !== undefined) column[at] = run[curve][index] ?? null;
    });
    return column;
  });
  return { steps, values };
}

/** The lowest loss on held-out rows, and at which step; nothing where none was measured. */
export function lowest(curves: Curves): Low | undefined {
  const points = curves.evalLoss.flatMap((value, index): Low[] => {
    const step = curves.steps[index]!;
    return value === null ? [] : [{ from: step, to: step, value }];
  });
  return [...points, ...(curves.evalLows ?? [])].reduce<Low | undefined>(
    (best, one) => (!best || one.value < best.value ? one : best),
    undefined,
  );
}

/** Where a lowest value is: at a step, or at one of some. */
export function placeOf({ from, to }: Low): string {
  return from === to ? `at step ${to}` : `between steps ${from} and ${to}`;
}

/** Whether a chart shows a part of its steps only. */
export function isZoomed(steps: readonly number[], shown: { min?: number | null; max?: number | null }): boolean {
  const [first, last] = [steps[0], steps.at(-1)];
  if (first === undefined || last === undefined || shown.min == null || shown.max == null) return false;
  return shown.min > first || shown.max < last;
}

/** The newest value of a curve. */
export function newest(curves: Curves, curve: Curve): number | undefined {
  return curves[curve].findLast((value) => value !== null) ?? undefined;
}

export interface Row {
  name: string;
  /** By run; empty where a run has no such value. */
  values: string[];
  isSame: boolean;
}

/** One row for each name that any run has, in the order in which they come first. */
export function rowsOf(runs: readonly (readonly [string, string][])[]): Row[] {
  const names = [...new Set(runs.flatMap((run) => run.map(([name]) => name)))];
  const maps = runs.map((run) => new Map(run));
  return names.map((name) => {
    const values = maps.map((values) => values.get(name) ?? "");
    return { name, values, isSame: values.every((value) => value === values[0]) };
  });
}
