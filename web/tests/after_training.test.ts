import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { EvaluationCondition, EvaluationSchema } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { type AnsweredRow, readAnswers, sorted } from "@/lib/jobs/answers";
import { gainVerdict, interval, orderVerdict, percent, points, videoVerdict } from "@/lib/jobs/evaluation";
import { mistakeIn, wholeNumber } from "@/lib/jobs/fields";
import { mergeVerdict } from "@/lib/jobs/merge";
import { kindOf, nameAfter } from "@/lib/jobs/kinds";
import { MergeSchema } from "@/gen/reeltune/scheduler/v1/merge_pb";
import { TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";

const { BASE, TUNED, SHUFFLED_CLIPS, REVERSED_FRAMES } = EvaluationCondition;
const estimate = (mean: number, low: number, high: number) => ({ mean, low, high });

/** Tuned less `against`, as token F1. */
function compared(
  against: EvaluationCondition,
  difference: ReturnType<typeof estimate>,
  rest: MessageInitShape<typeof EvaluationSchema> = {},
) {
  return create(EvaluationSchema, {
    rows: 120n,
    totalRows: 120n,
    results: [{ condition: TUNED, tokenF1: estimate(0.6, 0.5, 0.7) }],
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

test.each([
  [estimate(0.4, 0.3, 0.5), "good", /^The video matters: with the clips of another row token F1 falls by 40 points/],
  [estimate(0.01, -0.02, 0.04), "warn", /^No sign that the video matters/],
  [estimate(0, 0, 0), "warn", /does not change in any row/],
  [estimate(-0.2, -0.3, -0.1), "warn", /^Odd: .* rises by 20 points \(95 % interval \+10 to \+30\)/],
])("one sentence says whether the video matters", (difference, tone, text) => {
  const verdict = videoVerdict(compared(SHUFFLED_CLIPS, difference));
  expect(verdict.tone).toBe(tone);
  expect(verdict.text).toMatch(text);
});

test("of few rows, all of them right, nothing is concluded", () => {
  const few = compared(SHUFFLED_CLIPS, estimate(1, 1, 1), { rows: 4n });
  expect(videoVerdict(few)).toEqual({
    tone: "plain",
    text: expect.stringMatching(/^4 rows are too few to tell whether the video matters: .*falls by 100 points/),
  });
});

test("a model that gets nothing right cannot lose by a control", () => {
  const results = [{ condition: TUNED, tokenF1: estimate(0, 0, 0) }];
  expect(videoVerdict(compared(SHUFFLED_CLIPS, estimate(0, 0, 0), { results })).text).toMatch(/gets nothing right/);
});

test("a control that nobody asked for is named", () => {
  const found = compared(SHUFFLED_CLIPS, estimate(0.4, 0.3, 0.5));
  expect(orderVerdict(found).text).toMatch(/“Frames reversed”/);
  expect(orderVerdict(compared(REVERSED_FRAMES, estimate(0.2, 0.1, 0.3))).text).toMatch(/^The order of frames matters/);
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
  expect({ ...wholeNumber("maxRows", " 8 "), ...wholeNumber("maxNewTokens", "") }).toEqual({ maxRows: 8 });
  expect([mistakeIn(""), mistakeIn("0"), mistakeIn("1.5")]).toEqual([undefined, undefined, expect.any(String)]);
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
