// @vitest-environment jsdom
import { create } from "@bufbuild/protobuf";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { act, createElement, type ReactNode } from "react";
import { createRoot } from "react-dom/client";
import { beforeEach, expect, test, vi } from "vitest";
import { ArtifactPanel } from "@/components/jobs/artifact";
import { Answers } from "@/components/jobs/answers";
import { ComparePage } from "@/components/jobs/compare_page";
import { Evaluations } from "@/components/jobs/evaluations";
import { Plot } from "@/components/jobs/plot";
import { Merges } from "@/components/jobs/merges";
import { Ranks } from "@/components/jobs/ranks";
import { EvaluationParametersSchema } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { MergeParametersSchema } from "@/gen/reeltune/scheduler/v1/merge_pb";
import { MetricSeriesSchema } from "@/gen/reeltune/scheduler/v1/metric_series_pb";
import { JobState, type TrainingJob, TrainingJobSchema } from "@/gen/reeltune/scheduler/v1/training_job_pb";

// What the services answer, by the name of the call; one that is not there answers never.
type Call = (request: never) => unknown;
const { service, address, asked } = vi.hoisted(() => ({
  service: {} as Record<string, Call>,
  address: { query: "" },
  asked: [] as [string, Record<string, unknown>][],
}));
const client = vi.hoisted(
  () =>
    new Proxy({} as Record<string, Call>, {
      get: (_, name: string) => async (request: never) => {
        asked.push([name, request]);
        return service[name]?.(request) ?? new Promise(() => {});
      },
    }),
);
vi.mock("@/lib/clients", () => ({ training: client, datasets: client, models: client, transport: {} }));
vi.mock("@/lib/jobs/after_training", () => ({ postTraining: client, samples: client }));
// jsdom has no canvas: what the library is told to draw, not what it draws.
class Chart {
  static made: Chart[] = [];
  scales = { x: { min: 1, max: 4 } };
  told: unknown[] = [];
  constructor(
    _: object,
    public data: unknown,
  ) {
    Chart.made.push(this);
  }
  setData(data: unknown, resets: boolean) {
    this.data = data;
    this.told.push(resets);
  }
  redraw() {
    this.told.push("drawn");
  }
  destroy() {}
  setSize() {}
}
vi.mock("uplot", () => ({ default: Chart }));
vi.stubGlobal(
  "ResizeObserver",
  class {
    observe() {}
    disconnect() {}
  },
);
vi.mock("next/link", () => ({ default: (link: object) => createElement("a", link) }));
vi.mock("next/navigation", () => ({
  useRouter: () => ({}),
  useSearchParams: () => new URLSearchParams(address.query),
  usePathname: () => "/",
}));
Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });

beforeEach(() => {
  for (const name of Object.keys(service)) delete service[name];
  asked.length = 0;
  document.body.replaceChildren();
});

function page() {
  const element = document.body.appendChild(document.createElement("main"));
  const root = createRoot(element);
  const queries = new QueryClient({ defaultOptions: { queries: { retry: false, staleTime: 5_000 } } });
  return {
    element,
    show: (node: ReactNode) =>
      act(async () => root.render(createElement(QueryClientProvider, { client: queries }, node))),
    tells: (text: string) => vi.waitFor(() => act(async () => expect(element.textContent).toContain(text))),
  };
}

function button(name: string): HTMLButtonElement {
  return [...document.querySelectorAll("button")].find((one) => one.textContent === name)!;
}

const press = (name: string) => act(async () => button(name).click());
const calls = (name: string) => asked.filter(([called]) => called === name).length;
const stored = (path: string) => async () => ({ artifact: { files: [{ path, sizeBytes: 3n, url: "x" }] } });
const job = (fields: object): TrainingJob =>
  create(TrainingJobSchema, { id: "job_1", name: "tuned", datasetId: "ds_1", modelId: "mdl_1", ...fields });

test.each([
  ["evaluation", Evaluations, "Evaluate", "evaluateTrainingJob", EvaluationParametersSchema],
  ["merge", Merges, "Merge", "mergeTrainingJob", MergeParametersSchema],
] as const)(
  "the form of one more %s is gone as soon as one has been started",
  async (kind, Part, submit, rpc, Schema) => {
    const { show, tells } = page();
    const post = { task: { case: kind, value: create(Schema as typeof MergeParametersSchema) } };
    const started = job({ id: "job_2", name: "the first one", state: JobState.QUEUED, postTraining: post });
    let answered = 0;
    // The second answer never comes: what has been started stands there without it.
    service.listTrainingJobs = () => (answered++ === 0 ? { jobs: [] } : new Promise(() => {}));
    service[rpc] = () => ({ job: started });

    await show(createElement(Part, { job: job({ state: JobState.COMPLETED, hasArtifact: true }) }));
    await vi.waitFor(() => act(async () => expect(button(submit)).toBeDefined()));
    await act(async () => button(submit).form!.requestSubmit());
    await tells("the first one");

    expect([button(submit), calls(rpc), calls("listTrainingJobs")]).toEqual([undefined, 1, 2]);
  },
);

test("ranks are read anew when a retry has ended, and are not missed before", async () => {
  const { show, tells } = page();
  service.getArtifact = stored("README.md");
  const at = (state: JobState) => createElement(Ranks, { job: job({ attempt: 2, state, hasArtifact: true }) });
  await show(at(JobState.RUNNING));
  await tells("Ranks are not allocated yet");

  const layer = { name: "m.layers.0.q", group: "language", rank: 2, parameters_per_rank: 1, truncation_error: 0 };
  const report = { budget_parameters: 1, spent_parameters: 1, shares: {}, layers: [{ ...layer, scores: [1] }] };
  service.getArtifact = stored("rank_allocation.json");
  vi.stubGlobal("fetch", async () => new Response(JSON.stringify(report)));
  await show(at(JobState.COMPLETED));
  await tells("1 of 1");
});

test("answers and files are those of the attempt that is shown", async () => {
  const { show, tells } = page();
  const answer = { text: "yes", exact_match: 1, token_f1: 1, rouge_l: 1 };
  const none = { text: "", exact_match: 0, token_f1: 0, rouge_l: 0 };
  const row = (id: string) =>
    `${JSON.stringify({ sample_id: id, question: `${id}?`, reference: "yes", tags: [], answers: { TUNED: answer, BASE: none } })}\n`;
  const at = (state: JobState, attempt: number) => {
    const shown = job({ attempt, state, hasArtifact: true });
    return [
      createElement(Answers, { key: "answers", job: shown }),
      createElement(ArtifactPanel, { key: "files", job: shown }),
    ];
  };
  service.getArtifact = stored("answers.jsonl");
  vi.stubGlobal("fetch", async () => new Response(row("one")));
  await show(at(JobState.STOPPED, 1));
  await press("Show answers");
  await tells("1 row");

  vi.stubGlobal("fetch", async () => new Response(row("one") + row("two")));
  await show(at(JobState.RUNNING, 2));
  await tells("2 rows");
  const before = calls("getArtifact");
  await show(at(JobState.COMPLETED, 2));
  await vi.waitFor(() => act(async () => expect(calls("getArtifact")).toBe(before + 2)));
  await tells("two?");
});

const ids = ["A", "B", "C"].map((letter) => `job_${letter.repeat(26)}`);

/** Jobs by their ids, of one model and dataset; `fails` are those that cannot be read. */
function compare(fails: Set<string>) {
  address.query = `ids=${ids.join(",")}`;
  service.getTrainingJob = ({ jobId }: { jobId: string }) => {
    if (fails.has(jobId)) throw new Error("the connection broke");
    return { job: job({ id: jobId, name: `run ${jobId[4]}`, state: JobState.COMPLETED }) };
  };
  const point = { firstStep: 1n, lastStep: 7n, min: 0.5, max: 2, last: 1.25, count: 2n };
  service.listMetrics = () => ({ series: [create(MetricSeriesSchema, { name: "loss", buckets: [point] })] });
  service.getModel = () => ({ model: { name: "a small model" } });
  service.getDataset = () => ({ dataset: { name: "some clips" } });
}

const strokes = (name: string) =>
  [...document.querySelectorAll("tr")]
    .filter((row) => row.querySelector("th")?.textContent?.includes(name))
    .map((row) => row.querySelector("path")?.getAttribute("stroke"));

test("a job that cannot be read is tried again, and the others keep their colours and numbers", async () => {
  const fails = new Set([ids[0]!]);
  compare(fails);
  const { show, tells } = page();
  await show(createElement(ComparePage));
  await tells("the connection broke");
  await tells("run C");
  const before = [strokes("run B"), strokes("run C")];
  fails.clear();
  await press("Try again");
  await tells("run A");

  expect(before).toEqual([["var(--run-1)"], ["var(--run-2)"]]);
  expect([strokes("run A"), strokes("run B"), strokes("run C")]).toEqual([["var(--run-0)"], ...before]);
  expect(button("Try again")).toBeUndefined();
});

test("names are asked for once, however many jobs share them", async () => {
  compare(new Set());
  const { show, tells } = page();
  await show(createElement(ComparePage));
  await tells("run C");
  for (const box of document.querySelectorAll<HTMLInputElement>("input[type=checkbox]"))
    if (box.parentElement?.textContent?.includes("the same")) await act(async () => box.click());
  await tells("some clips");
  await tells("a small model");

  expect([calls("getModel"), calls("getDataset")]).toEqual([1, 1]);
});

test("the losses that the chart shows stand in a table, too", async () => {
  compare(new Set());
  const { show, tells, element } = page();
  await show(createElement(ComparePage));
  await tells("run C");
  await act(async () => {
    const details = element.querySelector("details")!;
    details.open = true;
    details.dispatchEvent(new Event("toggle"));
  });
  const table = element.querySelector("[aria-label='Losses as a table']")!;

  expect([...table.querySelectorAll("th")].map((cell) => cell.textContent)).toEqual([
    "Step",
    "1run A",
    "2run B",
    "3run C",
  ]);
  expect([...table.querySelectorAll("td")].map((cell) => cell.textContent)).toEqual(["7", "1.25", "1.25", "1.25"]);
});

test("whoever looks at a part of a chart goes on looking at it when more is measured", async () => {
  const { show } = page();
  const noLines = () => [];
  const plot = (steps: number[]) =>
    createElement(Plot, { data: [steps], series: noLines, isLog: false, label: "", onPoint: () => {} });
  Chart.made.length = 0;
  await show(plot([1, 2, 3, 4]));
  await vi.waitFor(() => act(async () => expect(Chart.made).toHaveLength(1)));
  const chart = Chart.made[0]!;
  await show(plot([1, 2, 3, 4, 5]));
  chart.scales.x = { min: 2, max: 3 };
  await show(plot([1, 2, 3, 4, 5, 6]));

  expect(chart.told).toEqual([true, false, "drawn"]);
  expect([chart.data, Chart.made.length]).toEqual([[[1, 2, 3, 4, 5, 6]], 1]);
});
