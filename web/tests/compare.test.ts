import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { idsFrom, lowest, newest, overlaid, rowsOf } from "@/lib/jobs/compare";
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
  expect(lowest({ steps: [1, 2, 3], loss: [], evalLoss: [2, 1, 3] }, "evalLoss")).toEqual({ step: 2, value: 1 });
  expect([lowest(sparse, "evalLoss"), newest(sparse, "evalLoss")]).toEqual([undefined, undefined]);
  expect(newest({ steps: [1, 2], loss: [3, null], evalLoss: [] }, "loss")).toBe(3);
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
