import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { WatchTrainingJobResponseSchema } from "@/gen/reeltune/scheduler/v1/training_history_pb";
import { JobState } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { fieldOf, mistake, FIELDS } from "@/lib/jobs/fields";
import { JobStory, smoothed } from "@/lib/jobs/story";

let sequence = 0n;

function message(update: object) {
  return create(WatchTrainingJobResponseSchema, { sequence, update } as never);
}

function event(what: object) {
  sequence += 1n;
  return message({ case: "event", value: { sequence, attempt: 1, event: what } });
}

const measured = (step: number, values: Record<string, number>) =>
  event({ case: "metrics", value: { step: BigInt(step), values } });
const snapshot = (state: JobState, upTo: bigint) =>
  message({ case: "snapshot", value: { id: "job_1", state, sequence: upTo } });

test("a curve grows with the stream, train and eval loss side by side", () => {
  const story = new JobStory();
  for (const one of [
    measured(1, { loss: 2 }),
    measured(2, { loss: 1.5 }),
    measured(2, { eval_loss: 1.8 }),
    measured(3, { loss: 1.2, learning_rate: 1e-4 }),
  ])
    story.take(one);

  expect(story.curves).toEqual({ steps: [1, 2, 3], loss: [2, 1.5, 1.2], evalLoss: [null, 1.8, null] });
  expect(story.latest.get("learning_rate")).toBe(1e-4);
});

test("an attempt that goes on from a checkpoint replaces what it measures anew", () => {
  const story = new JobStory();
  for (const step of [1, 2, 3, 4]) story.take(measured(step, { loss: 10 + step }));
  story.take(measured(3, { loss: 0.5 }));

  expect(story.curves).toEqual({ steps: [1, 2, 3], loss: [11, 12, 0.5], evalLoss: [null, null, null] });
});

test("answers to held-out rows are kept by step, and an attempt that goes on answers anew", () => {
  const story = new JobStory();
  const answered = (step: bigint, sampleId: string) =>
    event({ case: "predictions", value: { step, best: [{ sampleId }], worst: [] } });
  for (const step of [10n, 20n, 30n]) story.take(answered(step, "first"));
  story.take(answered(20n, "again"));

  expect(story.predictions.map((one) => [one.step, one.best[0]?.sampleId])).toEqual([
    [10n, "first"],
    [20n, "again"],
  ]);
});

test("a loss that is no number leaves a gap", () => {
  const story = new JobStory();
  story.take(measured(1, { loss: Number.NaN }));

  expect(story.curves.loss).toEqual([null]);
});

test("the history that is told after the snapshot does not take the job back", () => {
  const story = new JobStory();
  sequence = 0n;
  story.take(snapshot(JobState.RUNNING, 2n));
  story.take(event({ case: "stateChange", value: { to: JobState.QUEUED } }));
  story.take(event({ case: "stateChange", value: { to: JobState.RUNNING } }));
  expect(story.job?.state).toBe(JobState.RUNNING);
  story.take(
    event({ case: "stateChange", value: { from: JobState.RUNNING, to: JobState.FAILED, message: "out of memory" } }),
  );

  expect(story.job).toMatchObject({ state: JobState.FAILED, message: "out of memory" });
  expect(story.happenings).toHaveLength(3);
});

test("after a break the stream goes on where it was, not where its snapshot is", () => {
  const story = new JobStory();
  sequence = 9n;
  story.take(snapshot(JobState.RUNNING, 9n));
  expect(story.sequence).toBe(0n);
  sequence = 0n;
  story.take(measured(1, { loss: 1 }));

  expect(story.sequence).toBe(1n);
});

test("smoothing begins at the first value and keeps gaps", () => {
  expect(smoothed([1, 2, 3], [4, null, 4], 0.9)).toEqual([4, null, expect.closeTo(4)]);
  expect(smoothed([1, 2], [1, 2], 0)).toEqual([1, 2]);
  expect(smoothed([7], [1], 0.9)).toEqual([1]);
});

test("a run that is measured more rarely is smoothed over as many steps", () => {
  const often = Array.from({ length: 1001 }, (_, step) => step);
  const rarely = often.filter((step) => step % 10 === 0);
  const fall = (steps: number[]) =>
    smoothed(
      steps,
      steps.map((step) => (step < 500 ? 1 : 0)),
      0.98,
    ).at(-1)!;

  expect(fall(rarely)).toBeCloseTo(fall(often), 2);
  // And alike beside a run that went further.
  expect(smoothed([0, 100], [1, 0], 0.9, 1000)[1]).toBeGreaterThan(smoothed([0, 100], [1, 0], 0.9)[1]!);
});

test("a complaint of the service finds its field", () => {
  expect(fieldOf("parameters.optimization.learning_rate")).toBe("optimization.learningRate");
  expect(FIELDS.map((field) => field.path)).toContain(fieldOf("parameters.checkpoint_every_steps"));
});

test.each([
  ["8", undefined],
  ["", undefined],
  ["eight", "This is not a number"],
  ["1.5", "This must be a whole number"],
  ["-1", "This must not be negative"],
])("what cannot be a rank is told before it is sent: %s", (text, told) => {
  expect(
    mistake(
      FIELDS.find((field) => field.path === "lora.rank")!,
      text,
    ),
  ).toBe(told);
});
