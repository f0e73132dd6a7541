import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { EvaluationCondition, EvaluationControl, EvaluationSchema } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { type AnsweredRow, readAnswers, sorted } from "@/lib/jobs/answers";
import {
  controlsAsked,
  gainVerdict,
  interval,
  orderVerdict,
  percent,
  points,
  toneOf,
  videoVerdict,
} from "@/lib/jobs/evaluation";
import { mistake, mistakeIn, FIELDS, untoldOf, numberAs } from "@/lib/jobs/fields";
import { mergeVerdict } from "@/lib/jobs/merge";
import { kindOf, nameAfter, withoutCheckpoint, worthOfCheckpoints } from "@/lib/jobs/kinds";
import { heldOutWords, lackOfRows } from "@/lib/jobs/rows_asked";
import { MergeSchema } from "@/gen/reeltune/scheduler/v1/merge_pb";
import { JobState, TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";

const { BASE, TUNED, SHUFFLED_CLIPS, REVERSED_FRAMES, SHUFFLED_FRAMES } = EvaluationCondition;
const ALL = [EvaluationControl.SHUFFLED_CLIPS, EvaluationControl.REVERSED_FRAMES, EvaluationControl.SHUFFLED_FRAMES];
const estimate = (mean: number, low: number, high: number) => ({ mean, low, high });
const all = { rows: 120n };

/** Tuned less `against`, as token F1. */
function compared(
  against: EvaluationCondition,
  difference: ReturnType<typeof estimate>,
  rest: MessageInitShape<typeof EvaluationSchema> = {},
) {
  return create(EvaluationSchema, {
    rows: 120n,
    totalRows: 120n,
    results: [{ condition: TUNED, tokenF1: estimate(0.6, 0.5, 0.7), ...all }],
    comparisons: [{ condition: TUNED, against, tokenF1: difference }],
    ...rest,
  });
}

test.each([
  [estimate(0.31, 0.2, 0.42), "good", /^Tuning helps: token F1 rises by 31 points \(95 % interval \+20 to \+42\)/],
  [estimate(-0.1, -0.2, -0.01), "bad", /^Tuning makes it worse: token F1 falls by 10 points/],
  [estimate(0.02, -0.05, 0.09), "warn", /^Tuning makes no difference that could be told from chance/],
])("what tuning has done is told by whether its interval holds 0", (difference, tone, text) => {
  const verdict = gainVerdict(compared(BASE, difference));
  expect(verdict.tone).toBe(tone);
  expect(verdict.text).toMatch(text);
});

test("rows of the training split never show that tuning helps", () => {
  const on = (split: string, difference = estimate(0.9, 0.8, 0.95)) =>
    gainVerdict(compared(BASE, difference, { split }));
  expect(on("eval").tone).toBe("good");
  expect(on("train")).toEqual({
    tone: "plain",
    text: expect.stringMatching(
      /^On rows that it may have been trained on, token F1 rises by 90 points .*does not tell whether tuning helps on others/,
    ),
  });
  expect(on("train", estimate(0.02, -0.1, 0.1))).toEqual({
    tone: "warn",
    text: expect.stringMatching(/, not even on rows that it may have been trained on: token F1 rises by 2 points/),
  });
  expect(on("train", estimate(-0.2, -0.3, -0.1)).tone).toBe("bad");
});

test.each([
  [estimate(1, 1, 1), 1n, "eval", "plain"],
  [estimate(-1, -1, -1), 9n, "eval", "plain"],
  [estimate(0.4, 0.3, 0.5), 10n, "eval", "good"],
  [estimate(0.4, 0.3, 0.5), 10n, "train", "plain"],
  [estimate(-0.4, -0.5, -0.3), 10n, "train", "bad"],
  [estimate(0.4, -0.1, 0.5), 1000n, "eval", "plain"],
])("a difference is coloured only where it says something", (difference, rows, split, tone) => {
  const found = compared(BASE, difference).comparisons[0]!.tokenF1!;
  expect(toneOf(found, rows, { split })).toBe(tone);
});

test.each([
  [estimate(0.4, 0.3, 0.5), "good", /^The video matters: with the clips of another row token F1 falls by 40 points/],
  [estimate(0.01, -0.02, 0.04), "warn", /^No sign that the video matters/],
  [estimate(0, 0, 0), "warn", /does not change in any row/],
  [estimate(-0.2, -0.3, -0.1), "warn", /^Odd: .* rises by 20 points \(95 % interval \+10 to \+30\)/],
])("one sentence says whether the video matters", (difference, tone, text) => {
  const verdict = videoVerdict(compared(SHUFFLED_CLIPS, difference), ALL);
  expect(verdict.tone).toBe(tone);
  expect(verdict.text).toMatch(text);
});

test("of few rows, all of them right, nothing is concluded", () => {
  const few = compared(SHUFFLED_CLIPS, estimate(1, 1, 1), { rows: 4n });
  expect(videoVerdict(few, ALL)).toEqual({
    tone: "plain",
    text: expect.stringMatching(/^4 rows are too few to tell whether the video matters: .*falls by 100 points/),
  });
});

test("a control that few of the rows could be asked under says nothing, however many rows there are", () => {
  const results = [
    { condition: TUNED, tokenF1: estimate(0.6, 0.5, 0.7), ...all },
    { condition: SHUFFLED_CLIPS, rows: 1n },
  ];
  expect(videoVerdict(compared(SHUFFLED_CLIPS, estimate(1, 1, 1), { results }), ALL)).toEqual({
    tone: "plain",
    text: expect.stringMatching(/^1 row is too few to tell whether the video matters/),
  });
});

test("a model that gets nothing right cannot lose by a control", () => {
  const results = [{ condition: TUNED, tokenF1: estimate(0, 0, 0), ...all }];
  const found = compared(SHUFFLED_CLIPS, estimate(0, 0, 0), { results });
  expect(videoVerdict(found, ALL).text).toMatch(/gets nothing right/);
});

test("a control that nobody asked for is named", () => {
  const found = compared(SHUFFLED_CLIPS, estimate(0.4, 0.3, 0.5));
  expect(orderVerdict(found, []).text).toMatch(
    /^Nobody has asked whether the order of frames matters: .*“Frames reversed”/,
  );
  expect(orderVerdict(compared(REVERSED_FRAMES, estimate(0.2, 0.1, 0.3)), ALL).text).toMatch(
    /^The order of frames matters/,
  );
});

test("a control that was chosen and could not be asked is told from one that nobody chose", () => {
  const found = compared(BASE, estimate(0.3, 0.2, 0.4));
  expect(videoVerdict(found, ALL).text).toMatch(
    /^It could not be asked whether the video matters: .*rows that show different clips\.$/,
  );
  expect(videoVerdict(found, [EvaluationControl.REVERSED_FRAMES]).text).toMatch(/^Nobody has asked/);
  const value = { controls: [EvaluationControl.SHUFFLED_FRAMES] };
  const job = create(TrainingJobSchema, { postTraining: { task: { case: "evaluation", value } } });
  expect(controlsAsked(job)).toEqual([EvaluationControl.SHUFFLED_FRAMES]);
  expect(controlsAsked(create(TrainingJobSchema))).toEqual([]);
});

test("frames in random order tell of their order, too", () => {
  const one = compared(SHUFFLED_FRAMES, estimate(0.3, 0.2, 0.4));
  const told = /^The order of frames matters: with the frames in random order token F1 falls by 30 points/;
  expect(orderVerdict(one, ALL).text).toMatch(told);
  // A film that looks alike backwards: reversing alone would say that order does not matter.
  const comparisons = [
    { condition: TUNED, against: REVERSED_FRAMES, tokenF1: estimate(0, -0.1, 0.1) },
    { condition: TUNED, against: SHUFFLED_FRAMES, tokenF1: estimate(0.3, 0.2, 0.4) },
  ];
  const both = compared(REVERSED_FRAMES, estimate(0, 0, 0), { comparisons });
  expect(orderVerdict(both, ALL).text).toMatch(told);
});

test("shares and differences are written as people read them", () => {
  expect([percent(0.625), percent(1), percent(1 / 3)]).toEqual(["62.5 %", "100 %", "33.3 %"]);
  expect([points(0.31), points(-0.01), points(0)]).toEqual(["+31 points", "−1 point", "0 points"]);
  const between = create(EvaluationSchema, { results: [{ exactMatch: estimate(0.1, -0.05, 0.25) }] }).results[0]!;
  expect(interval(between.exactMatch!, true)).toBe("−5 to +25");
});

const line = (id: string, base: number, tuned: number) =>
  JSON.stringify({
    sample_id: id,
    question: "?",
    reference: "red",
    tags: [],
    answers: {
      BASE: { text: "", token_f1: base, rouge_l: base },
      TUNED: { text: "", token_f1: tuned, rouge_l: tuned },
    },
  });
const ids = (rows: AnsweredRow[]) => rows.map((row) => row.sample_id);

test("rows are sorted by what tuning has changed, and by the tuned model alone", () => {
  const rows = readAnswers(`${line("a", 0, 0.5)}\n${line("b", 0, 1)}\n${line("c", 1, 0)}\n${line("d", 1, 1)}\n`, false);
  expect(ids(sorted(rows, "gained"))).toEqual(["b", "a"]);
  expect(ids(sorted(rows, "lost"))).toEqual(["c"]);
  expect(ids(sorted(rows, "worst")).slice(0, 2)).toEqual(["c", "a"]);
  expect(ids(sorted(rows, "best")).slice(-2)).toEqual(["a", "c"]);
});

test("the last line of a file that was cut is left out, also where the cut is at its end", () => {
  const whole = `${line("a", 0, 1)}\n${line("b", 0, 1)}\n`;
  expect(ids(readAnswers(whole, false))).toEqual(["a", "b"]);
  expect(ids(readAnswers(whole.slice(0, -20), true))).toEqual(["a"]);
  expect(ids(readAnswers(whole, true))).toEqual(["a", "b"]);
});

test("a loss that is no number does not make a file unreadable", () => {
  const text = `${line("a", 0, 1).replace('"text":""', '"text":"so \\"loss\\": NaN","loss": NaN')}\n`;
  expect(readAnswers(text, false)[0]?.answers.BASE?.text).toBe('so "loss": NaN');
});

test("what is left out of a form is left out of the request", () => {
  expect({ ...numberAs("maxRows", " 8 "), ...numberAs("maxNewTokens", "") }).toEqual({ maxRows: 8 });
  const wrong = (text: string) => mistakeIn(text, 0, 8);
  expect([wrong(""), wrong("0"), wrong("1.5")]).toEqual([undefined, undefined, expect.any(String)]);
});

test("a number that no message holds is refused where it is typed", () => {
  expect(mistakeIn("99999999999", 0, 100_000)).toBe("This must be at most 100,000");
  expect([mistakeIn("0", 1, 4096), mistakeIn("4096", 1, 4096)]).toEqual(["This must be at least 1", undefined]);
  const [epochs, seed] = ["optimization.epochs", "optimization.seed"].map((path) =>
    FIELDS.find((field) => field.path === path)!,
  );
  expect(mistake(epochs!, "99999999999")).toMatch(/at most 2,147,483,647/);
  expect([mistake(seed!, "4294967295"), mistake(seed!, "4294967296")]).toEqual([undefined, expect.any(String)]);
});

test("what no field of a form tells is told beside them", () => {
  const message = "dataset_id: is not yours";
  expect(untoldOf({ message, fields: {} }, ["name"])).toEqual([message]);
  expect(untoldOf({ message, fields: { dataset_id: "is not yours" } }, ["name"])).toEqual([message]);
  expect(untoldOf({ message, fields: { name: "is too long" } }, ["name"])).toEqual([]);
  const fields = { name: "is too long", priority: "is too high" };
  expect(untoldOf({ message, fields }, ["name"])).toEqual(["priority: is too high"]);
});

test("which rows are asked about is said before, and that there are none", () => {
  const splits = (...named: [string, bigint][]) => named.map(([name, count]) => ({ name, count }));
  const held = splits(["train", 90n], ["val", 8n], ["test", 20n]);
  expect(heldOutWords(held, true)).toBe("what training held out: val (8)");
  expect(heldOutWords(splits(["test", 20n]), false)).toBe("its rows for evaluation: test (20)");
  expect(heldOutWords(undefined, true)).toBe("what training held out");
  expect([lackOfRows(held, ""), lackOfRows(undefined, "")]).toEqual([undefined, undefined]);
  const none = splits(["train", 90n], ["spare", 9n]);
  expect([lackOfRows(none, ""), lackOfRows(none, "train")]).toEqual([expect.stringMatching(/^No row/), undefined]);
  expect(heldOutWords(none, true)).toBe("choose …");
  // No more than so many splits are told: another may be there.
  const many = splits(...Array.from({ length: 50 }, (_, number): [string, bigint] => [`s${number}`, 1n]));
  expect([lackOfRows(many, ""), heldOutWords(many, false)]).toEqual([undefined, "its rows for evaluation"]);
});

test("of a job that is completed nobody reads that it is tried again", () => {
  const { COMPLETED, STOPPED, FAILED, RUNNING } = JobState;
  for (const told of [worthOfCheckpoints, withoutCheckpoint]) {
    expect(told(COMPLETED)).toMatch(/^The job is completed/);
    expect([told(STOPPED), told(FAILED)]).toEqual(Array(2).fill(expect.stringMatching(/tried again/i)));
    expect(told(RUNNING)).not.toMatch(/tried again|completed/i);
  }
});

test("a job is what was asked for, and one that follows is named after it", () => {
  const source = create(TrainingJobSchema, { id: "job_1", name: "é".repeat(100) });
  expect(kindOf(source)).toBe("training");
  expect(nameAfter(source, "evaluation")).toHaveLength(100);
  expect(nameAfter(create(TrainingJobSchema, { id: "job_1" }), "merge")).toBe("job_1, merged");
  const merge = { postTraining: { task: { case: "merge" as const, value: {} } } };
  expect(kindOf(create(TrainingJobSchema, merge))).toBe("merge");
});

test.each([
  [0.01, 9, "good", /900 times as far from the base model as from base and adapter together\. At 75 %/],
  [0, 9, "good", /says just what base and adapter say together/],
  [5, 9, "warn", /^Merging went wrong by about as much as was learned/],
  [0, 0, "bad", /^The merged model answers like the base model/],
])("a merged model is near the adapter and not the base model, or that is told", (near, far, tone, text) => {
  const told = { adapterLogitDifference: near, baseLogitDifference: far, adapterAgreement: 0.75, rows: 8n };
  const verdict = mergeVerdict(create(MergeSchema, told));
  expect(verdict.tone).toBe(tone);
  expect(verdict.text).toMatch(text);
});
