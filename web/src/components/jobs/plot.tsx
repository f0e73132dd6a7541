"use client";

import { useEffect, useRef, useState } from "react";
import type uPlot from "uplot";
import { isZoomed } from "@/lib/jobs/compare";
import "uplot/dist/uPlot.min.css";

const HEIGHT = 280;

export type Colour = (name: string) => string;

/** Lines over a common x. The canvas says in words what it shows. */
export function Plot({
  data,
  series,
  isLog,
  label,
  onPoint,
}: {
  data: uPlot.AlignedData;
  /** Of each column but the first; another one draws anew. Colours are those of the theme, by their names. */
  series: (colour: Colour) => uPlot.Series[];
  isLog: boolean;
  label: string;
  /** What is under the pointer, as a place in the columns. */
  onPoint: (index: number | null) => void;
}) {
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot>(undefined);
  const newest = useRef(data);
  const told = useRef(onPoint);
  told.current = onPoint;
  newest.current = data;
  const Chart = useChart();

  useEffect(() => {
    const element = place.current;
    if (!element || !Chart) return;
    const make = () => {
      chart.current?.destroy();
      const options = optionsOf(element, series, isLog, (index) => told.current(index));
      chart.current = new Chart(options, newest.current, element);
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
  }, [isLog, series, Chart]);
  useEffect(() => {
    if (chart.current) renew(chart.current, data);
  }, [data]);

  return <div ref={place} role="img" aria-label={label} className="min-h-[280px] w-full" />;
}

/** Shows other data; whoever looks at a part goes on looking at it. */
function renew(chart: uPlot, data: uPlot.AlignedData): void {
  const keeps = isZoomed([...chart.data[0]], chart.scales.x ?? {});
  chart.setData(data, !keeps);
  // Without new scales nothing is drawn by itself.
  if (keeps) chart.redraw();
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

function optionsOf(
  element: HTMLElement,
  series: (colour: Colour) => uPlot.Series[],
  isLog: boolean,
  onPoint: (index: number | null) => void,
): uPlot.Options {
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
    series: [{ label: "step" }, ...series(colour)],
    legend: { show: false },
    cursor: { drag: { x: true, y: false } },
    hooks: { setCursor: [(chart) => onPoint(chart.cursor.idx ?? null)] },
  };
}

/** How curves are drawn. */
export function PlotControls({
  weight,
  onWeight,
  isLog,
  onLog,
}: {
  /** Of the smoothing: 0 to 1. */
  weight: number;
  onWeight: (weight: number) => void;
  isLog: boolean;
  onLog: (isLog: boolean) => void;
}) {
  return (
    <>
      <label className="flex items-center gap-2">
        Smoothing
        <input
          type="range"
          min={0}
          max={0.98}
          step={0.02}
          value={weight}
          onChange={(event) => onWeight(Number(event.target.value))}
          className="accent-accent"
        />
      </label>
      <label className="flex items-center gap-2">
        <input
          type="checkbox"
          checked={isLog}
          onChange={(event) => onLog(event.target.checked)}
          className="accent-accent"
        />
        Logarithmic
      </label>
    </>
  );
}
