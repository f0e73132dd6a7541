// @vitest-environment jsdom
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { createElement, type FunctionComponent } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { BadRequestSchema } from "@/gen/google/rpc/error_details_pb";
import { DatasetService } from "@/gen/reeltune/catalog/v1/dataset_service_pb";
import { SampleService } from "@/gen/reeltune/catalog/v1/sample_service_pb";
import { EvaluationCondition, EvaluationSchema } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { PostTrainingService } from "@/gen/reeltune/scheduler/v1/post_training_service_pb";
import { JobState, type TrainingJob, TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { DeviceClass } from "@/gen/reeltune/scheduler/v1/worker_pb";
import { TrainingService } from "@/gen/reeltune/scheduler/v1/training_service_pb";

type Job = MessageInitShape<typeof TrainingJobSchema>;
type Told = MessageInitShape<typeof EvaluationSchema>;

let told: Told;
let splits: { name: string; count: bigint }[];
let asked: object[];
let refusal: ConnectError;
let root: Root;
let place: HTMLElement;

function refused(code: Code, message: string, fields: Record<string, string> = {}): ConnectError {
  const fieldViolations = Object.entries(fields).map(([field, description]) => ({ field, description }));
  return new ConnectError(message, code, undefined, [{ desc: BadRequestSchema, value: { fieldViolations } }]);
}

const routes = createRouterTransport(({ service }) => {
  service(TrainingService, {
    listTrainingJobs: () => ({ jobs: [] }),
    deleteTrainingJob: () => {
      throw refusal;
    },
  });
  service(PostTrainingService, {
    getEvaluation: () => ({ evaluation: told }),
    evaluateTrainingJob: (request) => {
      asked.push(request);
      throw refusal;
    },
    mergeTrainingJob: (request) => {
      asked.push(request);
      throw refusal;
    },
  });
  service(SampleService, { getDatasetStatistics: () => ({ statistics: { splits } }) });
  service(DatasetService, { listDatasets: () => ({ datasets: [{ id: "ds_2", name: "another", version: 1 }] }) });
});
// The pages are imported by the tests, when there are routes.
vi.mock("@/lib/clients", () => ({
  transport: routes,
  training: createClient(TrainingService, routes),
  datasets: createClient(DatasetService, routes),
}));
vi.mock("next/navigation", () => ({ useRouter: () => ({ replace: () => undefined }) }));

beforeEach(() => {
  // jsdom knows no modal dialogs.
  HTMLDialogElement.prototype.showModal = function showModal() {
    this.open = true;
  };
  HTMLDialogElement.prototype.close = function close() {
    this.open = false;
  };
  [splits, asked, refusal] = [[{ name: "eval", count: 12n }], [], refused(Code.Internal, "it broke")];
  place = document.body.appendChild(document.createElement("div"));
  root = createRoot(place);
});
afterEach(() => {
  root.unmount();
  place.remove();
});

function show<Props extends object>(of: FunctionComponent<Props>, props: Props): void {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  root.render(createElement(QueryClientProvider, { client }, createElement(of, props)));
}

/** Waits until the page has this text. */
const until = (text: string | RegExp) => vi.waitFor(() => expect(place.textContent).toMatch(text), { timeout: 10_000 });
/** Waits until something about the page is so. */
const become = <Value>(what: () => Value, value: Value) => expect.poll(what, { timeout: 10_000 }).toEqual(value);
const button = (name: string, within: ParentNode = place) =>
  [...within.querySelectorAll("button")].find((one) => one.textContent === name)!;
const labelled = (name: string) =>
  document.getElementById([...place.querySelectorAll("label")].find((one) => one.textContent === name)!.htmlFor)!;

/** As a user does, whose browser tells React of it. */
function fill(name: string, value: string): void {
  const field = labelled(name);
  const [kind, happened] =
    field instanceof HTMLSelectElement ? [HTMLSelectElement, "change"] : [HTMLInputElement, "input"];
  Object.getOwnPropertyDescriptor(kind.prototype, "value")!.set!.call(field, value);
  field.dispatchEvent(new Event(happened as string, { bubbles: true }));
}

const job = (rest: Job = {}): TrainingJob =>
  create(TrainingJobSchema, {
    id: "job_1",
    name: "ducks",
    datasetId: "ds_1",
    attempt: 1,
    state: JobState.COMPLETED,
    hasArtifact: true,
    ...rest,
  });
const exactly = (mean: number) => ({ mean, low: mean, high: mean });
const measures = (mean: number) => ({ tokenF1: exactly(mean), exactMatch: exactly(mean), rougeL: exactly(mean) });

/** All rows wrong before and right after tuning. */
function learned(rows: bigint, rest: Told = {}): Told {
  const { BASE, TUNED } = EvaluationCondition;
  const gain = { condition: TUNED, against: BASE, ...measures(1) };
  const shares = { tokenF1: [0, 1], exactMatch: [0, 1], rougeL: [0, 1] };
  return {
    rows,
    totalRows: rows,
    split: "eval",
    results: [
      { condition: BASE, rows, ...measures(0) },
      { condition: TUNED, rows, ...measures(1) },
    ],
    comparisons: [gain],
    tags: [
      { tag: "few", rows: 1n, gain, ...shares },
      { tag: "many", rows, gain, ...shares },
    ],
    ...rest,
  };
}

const greens = () =>
  [...place.querySelectorAll(".bg-good-soft")].map((one) => one.closest("tr")?.cells[0]?.textContent);

test("a gain is green where rows are many enough, card by card and tag by tag", async () => {
  const { EvaluationResult } = await import("@/components/jobs/evaluation_result");
  told = learned(12n);
  show(EvaluationResult, { job: job() });
  await until("Tuning helps");
  expect(greens()).toEqual([undefined, undefined, undefined, "many"]);
});

test("nothing is green of rows that were trained on, and why stands at the top", async () => {
  const { EvaluationResult } = await import("@/components/jobs/evaluation_result");
  told = learned(12n, { split: "train", notes: ["these rows are of the split `train`"] });
  show(EvaluationResult, { job: job() });
  await until("On rows that it may have been trained on");
  expect([greens(), place.querySelectorAll(".text-good").length]).toEqual([[], 0]);
  const at = (text: string) => place.textContent.indexOf(text);
  expect(at("These rows are of the split `train`.")).toBeGreaterThan(at("On rows that it may"));
  expect(at("These rows are of the split `train`.")).toBeLessThan(at("Does the video matter?"));
});

test("an evaluation of rows that are not there is not asked for", async () => {
  const { Evaluations } = await import("@/components/jobs/evaluations");
  splits = [{ name: "train", count: 4n }];
  show(Evaluations, { job: job() });
  await until(/No row of this dataset is of a split eval or test/);
  expect(button("Evaluate").disabled).toBe(true);
  fill("Rows of", "train");
  await become(() => button("Evaluate").disabled, false);
});

test("what is wrong with an evaluation is told at its fields, and the rest beside them", async () => {
  const { Evaluations } = await import("@/components/jobs/evaluations");
  refusal = refused(Code.InvalidArgument, "dataset_id: is not ready", {
    dataset_id: "is not ready",
    "parameters.split": "has no rows",
    "parameters.temperature": "is too hot",
    "parameters.controls": "are not known",
  });
  show(Evaluations, { job: job() });
  await until("what training held out: eval (12)");
  fill("Rows", "99999999999");
  await until("This must be at most 100,000");
  expect(button("Evaluate").disabled).toBe(true);
  fill("Rows", "5");
  await become(() => button("Evaluate").disabled, false);
  const options = place.querySelector("details")!;
  expect(options.open).toBe(false);
  fill("Temperature", "2.5");
  await until("This must be at most 2");
  // Where what is wrong can be seen, and nothing closes under whoever mends it.
  expect([options.open, button("Evaluate").disabled]).toEqual([true, true]);
  fill("Temperature", "0.5");
  await become(() => button("Evaluate").disabled, false);
  expect(options.open).toBe(true);
  fill("Seed", "4294967295");
  fill("Priority", "-7");
  fill("Where it may run", "DEVICE_CLASS_CUDA");
  await become(() => (labelled("Where it may run") as HTMLSelectElement).value, "DEVICE_CLASS_CUDA");
  button("Evaluate").click();
  await until("parameters.controls: are not known");
  const parameters = { maxRows: 5, temperature: 0.5, seed: 4294967295 };
  expect(asked).toMatchObject([{ jobId: "job_1", priority: -7, deviceClass: DeviceClass.CUDA, parameters }]);
  expect(place.textContent).toMatch(/Is not ready\..*Has no rows\..*Is too hot/);
  await become(() => document.activeElement, labelled("Dataset"));
});

test("whoever asks for a merge by keyboard is taken to what is wrong with it", async () => {
  const { Merges } = await import("@/components/jobs/merges");
  refusal = refused(Code.InvalidArgument, "name: is taken", { name: "is taken" });
  show(Merges, { job: job() });
  await until("Rows to check on");
  button("Merge").click();
  await until("Is taken");
  await become(() => document.activeElement, labelled("Name"));
  expect(place.querySelector("[role=alert]")).toBeNull();
});

test("an adapter that no weights can hold is not offered to be merged", async () => {
  const { Merges } = await import("@/components/jobs/merges");
  show(Merges, { job: job({ parameters: { lora: { temporalGroups: [1] } } }) });
  await until("This adapter cannot be merged");
  expect(place.querySelector("form")).toBeNull();
});

test("a deletion that is refused is told in its dialog, and forgotten with it", async () => {
  const { Verbs } = await import("@/components/jobs/verbs");
  refusal = refused(Code.FailedPrecondition, "job_2 still begins with it");
  show(Verbs, { job: job(), onMoved: () => undefined });
  await until("Keep it");
  button("Delete").click();
  const dialog = place.querySelector("dialog")!;
  button("Delete", dialog).click();
  await until("Job_2 still begins with it");
  expect(dialog.open).toBe(true);
  expect(dialog.querySelector("[role=alert]")?.textContent).toMatch(/It was not deleted.*still begins with it/);
  expect(place.querySelectorAll("[role=alert]")).toHaveLength(1);
  button("Keep it", dialog).click();
  button("Delete").click();
  await become(() => place.querySelector("[role=alert]"), null);
});
