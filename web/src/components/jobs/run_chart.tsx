"use client";

import { useCallback, useMemo, useState } from "react";
import type uPlot from "uplot";
import { measured } from "@/lib/format";
import { type Curve, overlaid, type Run } from "@/lib/jobs/compare";
import { nameOf } from "@/lib/jobs/kinds";
import { smoothed } from "@/lib/jobs/story";
import { type Colour, Plot } from "./plot";

/** From the sixth line on they are dashed, so that no two are told apart by near colours alone. */
const SOLID = 5;
const DASH = [6, 4];

/** One line for each run, all over the same steps. */
export function RunChart({
  runs,
  curve,
  weight,
  isLog,
}: {
  runs: readonly Run[];
  curve: Curve;
  weight: number;
  isLog: boolean;
}) {
  const [under, setUnder] = useState<number | null>(null);
  const { steps, values } = useMemo(
    () =>
      overlaid(
        runs.map((run) => run.curves),
        curve,
      ),
    [runs, curve],
  );
  const data = useMemo(
    (): uPlot.AlignedData => [steps, ...values.map((column) => (weight > 0 ? smoothed(column, weight) : column))],
    [steps, values, weight],
  );
  const count = runs.length;
  const isShort = steps.length < 3;
  const series = useCallback(
    (colour: Colour): uPlot.Series[] =>
      Array.from({ length: count }, (_, index) => ({
        stroke: colour(`--run-${index}`),
        width: 2,
        spanGaps: true,
        ...(index >= SOLID ? { dash: DASH } : {}),
        // Lines that cross at every step are told apart without points; a point alone has no line.
        points: { show: curve === "evalLoss" || isShort, size: 6 },
      })),
    [count, curve, isShort],
  );
  const at = under !== null && under < steps.length ? under : null;
  return (
    <>
      <p className="mb-1 flex min-h-5 flex-wrap gap-x-5 gap-y-1 text-sm tabular-nums">
        {at === null ? (
          <span className="text-ink-soft">
            {steps.length ? "Point at a step to read its values." : "None of the jobs has measured this."}
          </span>
        ) : (
          <>
            <span className="text-ink-soft">step {steps[at]}</span>
            {values.map((column, index) => (
              <span key={runs[index]!.job.id} className="inline-flex items-center gap-1.5">
                <LineSample index={index} />
                {index + 1}: {column[at] == null ? "–" : measured(column[at])}
              </span>
            ))}
          </>
        )}
      </p>
      <Plot data={data} series={series} isLog={isLog} label={inWords(runs, values)} onPoint={setUnder} />
    </>
  );
}

function inWords(runs: readonly Run[], values: readonly (number | null)[][]): string {
  const ends = runs.map(({ job }, index) => {
    const last = values[index]?.findLast((value) => value !== null);
    return `${index + 1} ${nameOf(job)}: ${last == null ? "nothing measured" : measured(last)}`;
  });
  return `Loss by step of ${runs.length} jobs, at their ends: ${ends.join("; ")}`;
}

/** What a run's line looks like. */
export function LineSample({ index }: { index: number }) {
  return (
    <svg aria-hidden viewBox="0 0 20 4" className="h-1 w-5 shrink-0">
      <path
        d="M0 2H20"
        stroke={`var(--run-${index})`}
        strokeWidth="3"
        strokeDasharray={index >= SOLID ? "6 4" : undefined}
      />
    </svg>
  );
}
