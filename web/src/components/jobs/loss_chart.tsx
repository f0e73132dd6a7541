"use client";

import { useMemo, useState } from "react";
import type uPlot from "uplot";
import { measured } from "@/lib/format";
import { lowest, placeOf } from "@/lib/jobs/compare";
import { type Curves, smoothed } from "@/lib/jobs/story";
import { DataTable } from "./data_table";
import { type Colour, Plot, PlotControls } from "./plot";

/** Train and eval loss by step. The canvas says in words what it shows, and a table has the numbers. */
export function LossChart({ curves, version }: { curves: Curves; version: number }) {
  const [weight, setWeight] = useState(0);
  const [isLog, setLog] = useState(false);
  const [under, setUnder] = useState<number | null>(null);
  // oxlint-disable-next-line react-hooks/exhaustive-deps -- curves grow in place; the version says so
  const data = useMemo(() => dataOf(curves, weight), [curves, version, weight]);
  return (
    <div>
      <div className="mb-3 flex flex-wrap items-center gap-x-6 gap-y-2 text-sm text-ink-soft">
        <PlotControls weight={weight} onWeight={setWeight} isLog={isLog} onLog={setLog} />
      </div>
      <Legend curves={curves} under={under} />
      <Plot data={data} series={seriesOf} isLog={isLog} label={inWords(curves)} onPoint={setUnder} />
      <DataTable
        label="Loss as a table"
        head={["Loss", "Loss on held-out rows"]}
        steps={curves.steps}
        columns={[curves.loss, curves.evalLoss]}
      />
    </div>
  );
}

/** What is under the pointer, and without one the newest values and the best. */
function Legend({ curves, under }: { curves: Curves; under: number | null }) {
  const { steps, loss, evalLoss } = curves;
  const newest = (values: (number | null)[]) => values.filter((value) => value !== null).at(-1) ?? null;
  const at = under !== null && under < steps.length ? under : null;
  const values =
    at === null
      ? { loss: newest(loss), held: newest(evalLoss) }
      : { loss: loss[at] ?? null, held: evalLoss[at] ?? null };
  const best = lowest(curves);
  return (
    <p className="mb-1 flex flex-wrap gap-x-6 text-sm tabular-nums">
      <span className="text-ink-soft">step {at === null ? (steps.at(-1) ?? 0) : steps[at]}</span>
      <span>
        <span aria-hidden className="mr-1.5 inline-block h-0.5 w-4 bg-accent align-middle" />
        loss {values.loss === null ? "–" : measured(values.loss)}
      </span>
      {best && (
        <span>
          <span aria-hidden className="mr-1.5 inline-block h-0.5 w-4 bg-warn align-middle" />
          on held-out rows {values.held === null ? "–" : measured(values.held)}, lowest {measured(best.value)}{" "}
          {placeOf(best)}
        </span>
      )}
    </p>
  );
}

export function inWords({ steps, loss, evalLoss }: Curves): string {
  const measuredAt = steps.map((step, index) => ({ step, loss: loss[index] })).filter((one) => one.loss != null);
  if (measuredAt.length === 0) return "Loss by step: nothing measured yet";
  const [first, last] = [measuredAt[0]!, measuredAt[measuredAt.length - 1]!];
  const held = evalLoss.filter((value) => value !== null).at(-1);
  const evaluated = held == null ? "" : `; on held-out rows ${measured(held)}`;
  return `Loss by step: ${measured(first.loss!)} at step ${first.step}, ${measured(last.loss!)} at step ${last.step}${evaluated}`;
}

function dataOf({ steps, loss, evalLoss }: Curves, weight: number): uPlot.AlignedData {
  return [steps, loss, weight > 0 ? smoothed(steps, loss, weight) : loss.map(() => null), evalLoss];
}

function seriesOf(colour: Colour): uPlot.Series[] {
  return [
    { label: "loss", stroke: colour("--accent"), width: 1.5, spanGaps: true },
    { label: "smoothed", stroke: colour("--ink"), width: 2, spanGaps: true },
    { label: "held-out", stroke: colour("--warn"), width: 2, spanGaps: true, points: { show: true, size: 6 } },
  ];
}
