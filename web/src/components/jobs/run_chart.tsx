"use client";

import { useCallback, useMemo, useState } from "react";
import type uPlot from "uplot";
import { measured } from "@/lib/format";
import { type Curve, overlaid, type Placed } from "@/lib/jobs/compare";
import { nameOf } from "@/lib/jobs/kinds";
import { smoothed } from "@/lib/jobs/story";
import { DataTable } from "./data_table";
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
  runs: readonly Placed[];
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
    (): uPlot.AlignedData => [
      steps,
      ...values.map((column) => (weight > 0 ? smoothed(steps, column, weight) : column)),
    ],
    [steps, values, weight],
  );
  // By value: a chart that is drawn anew begins at its whole width.
  const places = runs.map((run) => run.place).join();
  const isShort = steps.length < 3;
  const series = useCallback(
    (colour: Colour): uPlot.Series[] =>
      places.split(",").map((place) => ({
        stroke: colour(`--run-${place}`),
        width: 2,
        spanGaps: true,
        ...(Number(place) >= SOLID ? { dash: DASH } : {}),
        // Lines that cross at every step are told apart without points; a point alone has no line.
        points: { show: curve === "evalLoss" || isShort, size: 6 },
      })),
    [places, curve, isShort],
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
            {runs.map(({ job, place }, index) => (
              <span key={job.id} className="inline-flex items-center gap-1.5">
                <LineSample place={place} />
                {place + 1}: {told(values[index]?.[at])}
              </span>
            ))}
          </>
        )}
      </p>
      <Plot data={data} series={series} isLog={isLog} label={inWords(runs, values)} onPoint={setUnder} />
      <DataTable
        label="Losses as a table"
        head={runs.map(({ job, place }) => (
          <span key={job.id} className="inline-flex items-center gap-1.5" title={nameOf(job)}>
            <LineSample place={place} />
            {place + 1}
            <span className="sr-only">{nameOf(job)}</span>
          </span>
        ))}
        steps={steps}
        columns={values}
      />
    </>
  );
}

function told(value: number | null | undefined): string {
  return value == null ? "–" : measured(value);
}

function inWords(runs: readonly Placed[], values: readonly (number | null)[][]): string {
  const ends = runs.map(({ job, place }, index) => {
    const last = values[index]?.findLast((value) => value !== null);
    return `${place + 1} ${nameOf(job)}: ${last == null ? "nothing measured" : measured(last)}`;
  });
  return `Loss by step of ${runs.length} jobs, at their ends: ${ends.join("; ")}`;
}

/** What a run's line looks like. */
export function LineSample({ place }: { place: number }) {
  return (
    <svg aria-hidden viewBox="0 0 20 4" className="h-1 w-5 shrink-0">
      <path
        d="M0 2H20"
        stroke={`var(--run-${place})`}
        strokeWidth="3"
        strokeDasharray={place >= SOLID ? "6 4" : undefined}
      />
    </svg>
  );
}
