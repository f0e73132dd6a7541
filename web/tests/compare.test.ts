import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { MetricSeriesSchema } from "@/gen/reeltune/scheduler/v1/metric_series_pb";
import { WatchTrainingJobResponseSchema } from "@/gen/reeltune/scheduler/v1/training_history_pb";
import { TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { idsFrom, isZoomed, lowest, newest, overlaid, placeOf, rowsOf } from "@/lib/jobs/compare";
import { JobStory } from "@/lib/jobs/story";
import { valuesOf } from "@/lib/jobs/parameters";

const id = (letter: string) => `job_${letter.repeat(26)}`;

test("an address names each job once, at most ten, and nothing else", () => {
  expect(idsFrom(`${id("A")},${id("B")},${id("A")},nonsense,`)).toEqual([id("A"), id("B")]);
  expect(idsFrom([..."ABCDEFGHJKLM"].map(id).join(","))).toHaveLength(10);
  expect(idsFrom("")).toEqual([]);
});

const long = { steps: [1, 2, 3, 4], loss: [4, 3, null, 1], evalLoss: [null, 3.5, null, 2] };
const sparse = { steps: [2, 10], loss: [5, 2], evalLoss: [null, null] };

test("curves of unlike steps lie over each other, with gaps where a run measured nothing", () => {
  expect(overlaid([long, sparse], "loss")).toEqual({
    steps: [1, 2, 4, 10],
    values: [
      [4, 3, 1, null],
      [null, 5, null, 2],
    ],
  });
  expect(overlaid([long, sparse], "evalLoss")).toEqual({
    steps: [2, 4],
    values: [
      [3.5, 2],
      [null, null],
    ],
  });
});

test("the lowest and the newest value of a curve, or none", () => {
  const best = lowest({ steps: [1, 2, 3], loss: [], evalLoss: [2, 1, 3] })!;
  expect([best.value, placeOf(best)]).toEqual([1, "at step 2"]);
  expect([lowest(sparse), newest(sparse, "evalLoss")]).toEqual([undefined, undefined]);
  expect(newest({ steps: [1, 2], loss: [3, null], evalLoss: [] }, "loss")).toBe(3);
});

const point = (step: number, value: number) => bucket([step, step], { min: value, last: value });

function bucket([first, last]: [number, number], values: { min: number; last: number }) {
  return { firstStep: BigInt(first), lastStep: BigInt(last), max: 9, count: first === last ? 1n : 3n, ...values };
}

function curvesOf(loss: ReturnType<typeof bucket>[], evalLoss: ReturnType<typeof bucket>[]) {
  const story = new JobStory();
  const series = { loss, eval_loss: evalLoss };
  story.begin(Object.entries(series).map(([name, buckets]) => create(MetricSeriesSchema, { name, buckets })));
  return story.curves;
}

test("the lowest value of a bucket counts, also where it is not its last, and its step is not made up", () => {
  const curves = curvesOf([bucket([1, 40], { min: 1, last: 2 })], [bucket([10, 40], { min: 0.2, last: 0.8 })]);

  expect([lowest(curves)!.value, placeOf(lowest(curves)!)]).toEqual([0.2, "between steps 10 and 40"]);
  expect(curves).toMatchObject({ steps: [40], evalLoss: [0.8] });
});

test("what an abandoned attempt reached is no run's lowest value", () => {
  const first = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100].map((step) => point(step, 1));
  const again = [60, 70].map((step) => point(step, 2));
  const measured = [point(50, 0.9), point(60, 0.3), point(100, 0.1), point(60, 0.85)];
  const curves = curvesOf([...first, ...again], measured);
  const unmeasured = curvesOf([...first, ...again], [point(50, 0.9), point(100, 0.1)]);

  expect(curves.steps).toEqual([10, 20, 30, 40, 50, 60, 70]);
  expect(lowest(curves)).toEqual({ from: 60, to: 60, value: 0.85 });
  expect(lowest(unmeasured)).toEqual({ from: 50, to: 50, value: 0.9 });
});

test("an attempt that goes back in the stream takes the lows of what it measures anew along", () => {
  const story = new JobStory();
  const lows = [bucket([10, 40], { min: 0.5, last: 0.8 }), bucket([50, 90], { min: 0.1, last: 0.7 })];
  story.begin([
    create(MetricSeriesSchema, { name: "loss", buckets: [point(40, 1), point(90, 1)] }),
    create(MetricSeriesSchema, { name: "eval_loss", buckets: lows }),
  ]);
  const value = { sequence: 1n, event: { case: "metrics", value: { step: 60n, values: { loss: 1 } } } };
  story.take(create(WatchTrainingJobResponseSchema, { sequence: 1n, update: { case: "event", value } } as never));

  expect(lowest(story.curves)).toMatchObject({ from: 10, to: 40, value: 0.5 });
});

test("a chart shows a part when either end is missing", () => {
  const steps = [10, 20, 30];
  expect([
    isZoomed(steps, { min: 10, max: 30 }),
    isZoomed(steps, { min: 11, max: 30 }),
    isZoomed(steps, { min: 10, max: 29 }),
    isZoomed(steps, { min: null, max: null }),
    isZoomed([], { min: 1, max: 2 }),
  ]).toEqual([false, true, true, false, false]);
});

test("what differs is told by place, also where only one run has it", () => {
  const [one, other] = [8, 16].map((rank) =>
    valuesOf(create(TrainingJobSchema, { parameters: { lora: { rank, alpha: 32 } } })),
  );
  const rows = rowsOf([one!, [...other!, ["lora.rank_allocation.warmup_steps", "5"]]]);

  expect(rows.filter((row) => !row.isSame)).toEqual([
    { name: "lora.rank", values: ["8", "16"], isSame: false },
    { name: "lora.rank_allocation.warmup_steps", values: ["", "5"], isSame: false },
  ]);
  expect(rows.find((row) => row.name === "lora.alpha")?.isSame).toBe(true);
});
