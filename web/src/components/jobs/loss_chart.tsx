"use client";

import { useEffect, useId, useRef, useState } from "react";
import type uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { measured } from "@/lib/format";
import { type Curves, smoothed } from "@/lib/jobs/story";

const HEIGHT = 280;
const TABLE_ROWS = 200;

/** Train and eval loss by step. The canvas says in words what it shows, and a table has the numbers. */
export function LossChart({ curves, version }: { curves: Curves; version: number }) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot>(undefined);
  const id = useId();
  const [weight, setWeight] = useState(0);
  const [isLog, setLog] = useState(false);
  const [under, setUnder] = useState<number | null>(null);
  const Chart = useChart();

  useEffect(() => {
    const element = place.current;
    if (!element || !Chart) return;
    const make = () => {
      chart.current?.destroy();
      chart.current = new Chart(optionsOf(element, isLog, setUnder), dataOf(curves, weight), element);
    };
    make();
    const resized = new ResizeObserver(() => chart.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    // Colours are those of the theme, which the canvas does not follow by itself.
    const themed = new MutationObserver(make);
    themed.observe(document.documentElement, { attributeFilter: ["class"] });
    return () => {
      resized.disconnect();
      themed.disconnect();
      chart.current?.destroy();
      chart.current = undefined;
    };
    // oxlint-disable-next-line react-hooks/exhaustive-deps -- new data comes by the effect below
  }, [isLog, Chart]);
  useEffect(() => chart.current?.setData(dataOf(curves, weight)), [curves, version, weight]);

  return (
    <div>
      <div className="mb-3 flex flex-wrap items-center gap-x-6 gap-y-2 text-sm text-ink-soft">
        <label className="flex items-center gap-2" htmlFor={`${id}-smooth`}>
          Smoothing
          <input
            id={`${id}-smooth`}
            type="range"
            min={0}
            max={0.98}
            step={0.02}
            value={weight}
            onChange={(event) => setWeight(Number(event.target.value))}
            className="accent-accent"
          />
        </label>
        <label className="flex items-center gap-2">
          <input
            type="checkbox"
            checked={isLog}
            onChange={(event) => setLog(event.target.checked)}
            className="accent-accent"
          />
          Logarithmic
        </label>
      </div>
      <Legend curves={curves} under={under} />
      <div ref={place} role="img" aria-label={inWords(curves)} className="min-h-[280px] w-full" />
      <DataTable curves={curves} />
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
          on held-out rows {values.held === null ? "–" : measured(values.held)}, lowest {measured(best.loss)} at step{" "}
          {best.step}
        </span>
      )}
    </p>
  );
}

function lowest({ steps, evalLoss }: Curves): { step: number; loss: number } | undefined {
  let best: { step: number; loss: number } | undefined;
  evalLoss.forEach((value, index) => {
    if (value !== null && (!best || value < best.loss)) best = { step: steps[index]!, loss: value };
  });
  return best;
}

/** The charting library, once it has loaded; never where a browser cannot run it: the words and the table are there. */
function useChart(): typeof uPlot | undefined {
  const [Chart, setChart] = useState<typeof uPlot>();
  useEffect(() => {
    import("uplot").then(
      (module) => setChart(() => module.default),
      (error: unknown) => console.warn("no chart can be drawn here", error),
    );
  }, []);
  return Chart;
}

export function inWords({ steps, loss, evalLoss }: Curves): string {
  const measuredAt = steps.map((step, index) => ({ step, loss: loss[index] })).filter((one) => one.loss != null);
  if (measuredAt.length === 0) return "Loss by step: nothing measured yet";
  const [first, last] = [measuredAt[0]!, measuredAt[measuredAt.length - 1]!];
  const held = evalLoss.filter((value) => value !== null).at(-1);
  const evaluated = held == null ? "" : `; on held-out rows ${measured(held)}`;
  return `Loss by step: ${measured(first.loss!)} at step ${first.step}, ${measured(last.loss!)} at step ${last.step}${evaluated}`;
}

function DataTable({ curves }: { curves: Curves }) {
  const [isOpen, setOpen] = useState(false);
  const { steps, loss, evalLoss } = curves;
  const from = Math.max(0, steps.length - TABLE_ROWS);
  const cell = (value: number | null | undefined) => (value == null ? "" : measured(value));
  return (
    <details className="mt-3 text-sm" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="text-ink-soft">As a table</summary>
      {isOpen && (
        <div tabIndex={0} role="region" aria-label="Loss as a table" className="mt-2 max-h-64 overflow-y-auto">
          <table className="w-full text-left tabular-nums">
            <thead>
              <tr>
                <th className="font-medium">Step</th>
                <th className="font-medium">Loss</th>
                <th className="font-medium">Loss on held-out rows</th>
              </tr>
            </thead>
            <tbody>
              {steps.slice(from).map((step, index) => (
                <tr key={step} className="border-t border-line">
                  <td>{step}</td>
                  <td>{cell(loss[from + index])}</td>
                  <td>{cell(evalLoss[from + index])}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}

function dataOf({ steps, loss, evalLoss }: Curves, weight: number): uPlot.AlignedData {
  return [steps, loss, weight > 0 ? smoothed(loss, weight) : loss.map(() => null), evalLoss];
}

function optionsOf(element: HTMLElement, isLog: boolean, onPoint: (index: number | null) => void): uPlot.Options {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = {
    stroke: colour("--ink-soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
  };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
    axes: [axis, axis],
    series: [
      { label: "step" },
      { label: "loss", stroke: colour("--accent"), width: 1.5, spanGaps: true },
      { label: "smoothed", stroke: colour("--ink"), width: 2, spanGaps: true },
      { label: "held-out", stroke: colour("--warn"), width: 2, spanGaps: true, points: { show: true, size: 6 } },
    ],
    legend: { show: false },
    cursor: { drag: { x: true, y: false } },
    hooks: { setCursor: [(chart) => onPoint(chart.cursor.idx ?? null)] },
  };
}
