"use client";

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type Query, useQueries, type UseQueryResult } from "@tanstack/react-query";
import Link from "next/link";
import { useSearchParams } from "next/navigation";
import { useMemo, useState } from "react";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { duration, measured } from "@/lib/format";
import { type Curve, idsFrom, lowest, newest, type Placed, placeOf, rowsOf, type Run } from "@/lib/jobs/compare";
import { nameOf } from "@/lib/jobs/kinds";
import { valuesOf } from "@/lib/jobs/parameters";
import { type Curves, isFinal, JobStory } from "@/lib/jobs/story";
import { datasetName, modelName } from "@/lib/names";
import { untilRead } from "@/lib/reachable";
import { useTitle } from "@/lib/title";
import { Table } from "../table";
import { Button, buttonClass, Empty, Loading, PageTitle, Panel, Picker, Problem } from "../ui";
import { PlotControls } from "./plot";
import { LineSample, RunChart } from "./run_chart";
import { StateChip } from "./state";

const REFRESH_MS = 5_000;
const BUCKETS = 1_000;

export function ComparePage() {
  const ids = idsFrom(useSearchParams().get("ids") ?? "");
  useTitle("Compare jobs");
  const found = useQueries({
    queries: ids.map((id) => ({
      queryKey: ["run", id],
      queryFn: ({ signal }: { signal: AbortSignal }) => read(id, signal),
      refetchInterval: (query: Query<Run>) =>
        untilRead(query) || (query.state.data && !isFinal(query.state.data.job.state) ? REFRESH_MS : false),
    })),
    combine: gathered,
  });
  const { runs } = found;
  if (ids.length < 2)
    return (
      <Empty title="This address names fewer than two jobs">
        <Link href="/jobs" className={buttonClass()}>
          Choose jobs to compare
        </Link>
      </Empty>
    );
  return (
    <>
      <PageTitle title="Compare jobs">What they learned, and what differs between them.</PageTitle>
      <div className="space-y-6">
        {found.problems.map(({ place, error, again }) => (
          <Problem
            key={ids[place]}
            title={ids[place]!}
            action={<Button onClick={() => void again()}>Try again</Button>}
          >
            {explain(error).message}
          </Problem>
        ))}
        {found.isPending && <Loading what="Loading jobs …" />}
        {runs.length > 0 && (
          <>
            <LossPanel runs={runs} />
            <DifferencePanel runs={runs} />
          </>
        )}
      </div>
    </>
  );
}

/** Outside of any component, so that what has not changed stays the same object: a chart of the same runs is not drawn anew. */
function gathered(all: UseQueryResult<Run>[]) {
  return {
    runs: all.flatMap((one, place): Placed[] => (one.data ? [{ ...one.data, place }] : [])),
    problems: all.flatMap(({ error, refetch }, place) => (error ? [{ place, error, again: refetch }] : [])),
    isPending: all.some((one) => one.isPending),
  };
}

async function read(jobId: string, signal: AbortSignal): Promise<Run> {
  const [{ job }, { series }] = await Promise.all([
    training.getTrainingJob({ jobId }, { signal }),
    training.listMetrics({ jobId, maxPoints: BUCKETS, names: ["loss", "eval_loss"] }, { signal }),
  ]);
  if (!job) throw new Error("The service told nothing of this job.");
  const story = new JobStory();
  story.begin(series);
  return { job, curves: story.curves };
}

const CURVES: Record<Curve, string> = { loss: "in training", evalLoss: "on held-out rows" };

function LossPanel({ runs }: { runs: Placed[] }) {
  const [curve, setCurve] = useState<Curve>("loss");
  const [weight, setWeight] = useState(0);
  const [isLog, setLog] = useState(false);
  return (
    <Panel title="Loss">
      <div className="mb-3 flex flex-wrap items-center gap-x-6 gap-y-2 text-sm text-ink-soft">
        <Picker label="Loss" value={curve} options={CURVES} onChange={setCurve} />
        <PlotControls weight={weight} onWeight={setWeight} isLog={isLog} onLog={setLog} />
      </div>
      <RunChart runs={runs} curve={curve} weight={weight} isLog={isLog} />
      <div className="mt-4">
        <Table
          label="What the jobs learned"
          head={["Job", "State", "Step", "Loss", "Lowest on held-out rows", "Trained for"]}
          rows={runs.map((run) => ({
            key: run.job.id,
            cells: [
              <RunName key="name" run={run} />,
              <StateChip key="state" job={run.job} />,
              String(run.job.progress?.step ?? 0),
              told(newest(run.curves, "loss")),
              <Best key="best" curves={run.curves} />,
              told(secondsOf(run.job), duration),
            ],
          }))}
        />
      </div>
    </Panel>
  );
}

/** Over more columns than this there is no room for names. */
const MOST_NAMES = 4;

function told(value: number | undefined, as: (value: number) => string = measured): string {
  return value === undefined ? "–" : as(value);
}

function secondsOf(job: TrainingJob): number | undefined {
  if (!job.startTime) return undefined;
  return ((job.endTime ? timestampMs(job.endTime) : Date.now()) - timestampMs(job.startTime)) / 1000;
}

function Best({ curves }: { curves: Curves }) {
  const best = lowest(curves);
  if (!best) return "–";
  return (
    <>
      {measured(best.value)}
      <span className="block text-xs text-ink-soft">{placeOf(best)}</span>
    </>
  );
}

/** Jobs may have the same name: each has a line and a number, too. */
function RunName({ run, isShort = false }: { run: Placed; isShort?: boolean }) {
  return (
    <span className="inline-flex items-center gap-2" title={nameOf(run.job)}>
      <LineSample place={run.place} />
      <span className="text-ink-soft tabular-nums">{run.place + 1}</span>
      {isShort ? (
        <span className="sr-only">{nameOf(run.job)}</span>
      ) : (
        <Link
          href={`/jobs/view?id=${run.job.id}`}
          className="max-w-48 truncate text-ink underline-offset-4 hover:underline"
        >
          {nameOf(run.job)}
        </Link>
      )}
    </span>
  );
}

function DifferencePanel({ runs }: { runs: Placed[] }) {
  const [isAll, setAll] = useState(false);
  const models = useNames(
    runs.map((run) => run.job.modelId),
    modelName,
  );
  const datasets = useNames(
    runs.map((run) => run.job.datasetId),
    datasetName,
  );
  const rows = useMemo(
    () => rowsOf(runs.map((run, index) => factsOf(run, models[index]!, datasets[index]!))),
    [runs, models, datasets],
  );
  const shown = rows.filter((row) => isAll || !row.isSame);
  return (
    <Panel
      title="Parameters"
      action={
        <label className="flex items-center gap-2 text-sm text-ink-soft">
          <input
            type="checkbox"
            checked={isAll}
            onChange={(event) => setAll(event.target.checked)}
            className="accent-accent"
          />
          Also what is the same
        </label>
      }
    >
      {shown.length === 0 ? (
        <p className="text-sm text-ink-soft">All values are the same.</p>
      ) : (
        <Table
          isText
          label="Parameters of the jobs"
          head={[
            "Value",
            ...runs.map((run) => <RunName key={run.job.id} run={run} isShort={runs.length > MOST_NAMES} />),
          ]}
          rows={shown.map((row) => ({
            key: row.name,
            cells: [
              <span
                key="name"
                className="font-mono text-[0.8125rem] font-normal text-ink-soft max-sm:break-all sm:whitespace-nowrap"
              >
                {row.name}
              </span>,
              ...row.values.map((value) => value || "–"),
            ],
          }))}
        />
      )}
    </Panel>
  );
}

/** Names by their ids, which stand for those that are not there. */
function useNames(ids: string[], query: typeof modelName): string[] {
  const known = [...new Set(ids)];
  const names = useQueries({ queries: known.map(query), combine: dataOf });
  return useMemo(() => ids.map((id) => names[known.indexOf(id)] || id), [ids.join(), names]); // oxlint-disable-line react-hooks/exhaustive-deps -- ids by value
}

function dataOf(all: UseQueryResult<string>[]) {
  return all.map((one) => one.data);
}

function factsOf({ job }: Run, model: string, dataset: string): [string, string][] {
  return [
    ["model", model],
    ["dataset", job.datasetVersion > 1 ? `${dataset}, version ${job.datasetVersion}` : dataset],
    ["devices", String(job.deviceCount)],
    ...valuesOf(job),
  ];
}
