"use client";

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { useQuery } from "@tanstack/react-query";
import Link from "next/link";
import { useSearchParams } from "next/navigation";
import { type ReactNode, useEffect, useState } from "react";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { ago, bytes, duration, measured, sentence } from "@/lib/format";
import { datasets, models } from "@/lib/clients";
import { isFinal, type JobStory } from "@/lib/jobs/story";
import { useTitle } from "@/lib/title";
import { Bar, Button, cx, Empty, Facts, Loading, PageTitle, Panel, Problem } from "../ui";
import { ArtifactPanel } from "./artifact";
import { Happenings } from "./happenings";
import { LogView } from "./log_view";
import { LossChart } from "./loss_chart";
import { ParameterList } from "./parameter_list";
import { reasonName, StateChip } from "./state";
import { TryIt } from "./try_it";
import { useJob } from "./use_job";
import { Verbs } from "./verbs";

const TABS = ["Overview", "Log", "Events", "Parameters", "Adapter", "Try it"] as const;
type Tab = (typeof TABS)[number];

export function JobPage() {
  const id = useSearchParams().get("id") ?? "";
  const { story, isBroken, problem, again } = useJob(id);
  const [tab, setTab] = useState<Tab>("Overview");
  const { job } = story;
  useTitle(job?.name || job?.id);
  if (!id) return <Empty title="This address names no job" />;
  if (problem && !job) return <Problem action={<Button onClick={again}>Try again</Button>}>{problem}</Problem>;
  if (!job) return <Loading what="Loading the job …" />;
  const shown = TABS.filter((one) => job.hasArtifact || (one !== "Adapter" && one !== "Try it"));
  return (
    <>
      <PageTitle title={job.name || job.id} chip={<StateChip job={job} />} action={<Verbs job={job} onMoved={again} />}>
        <Origin job={job} />
      </PageTitle>
      <div className="space-y-6">
        {(problem || isBroken) && (
          <Problem>{problem || "The connection broke. The job goes on, and this page finds it again."}</Problem>
        )}
        {job.state === JobState.FAILED && (
          <Problem title={sentence(reasonName(job.reason)) || "It failed"}>{sentence(job.message)}</Problem>
        )}
        <Progress job={job} loss={story.latest.get("loss") ?? job.progress?.loss} />
        <Tabs tabs={shown} chosen={tab} onChoose={setTab}>
          {tab === "Overview" && <Overview story={story} />}
          {tab === "Log" && <LogView lines={story.lines} version={story.version} name={job.name || job.id} />}
          {tab === "Events" && <Happenings happenings={story.happenings} />}
          {tab === "Parameters" && <ParameterList job={job} />}
          {tab === "Adapter" && <ArtifactPanel jobId={job.id} name={job.name} />}
          {tab === "Try it" && <TryIt job={job} />}
        </Tabs>
      </div>
    </>
  );
}

function Origin({ job }: { job: TrainingJob }) {
  const link = "text-accent underline underline-offset-4";
  // What is deleted meanwhile, or shared no more, has no name to show.
  const model = useQuery({
    queryKey: ["name", job.modelId],
    queryFn: async () => (await models.getModel({ modelId: job.modelId })).model?.name,
    retry: false,
  });
  const dataset = useQuery({
    queryKey: ["name", job.datasetId],
    queryFn: async () => (await datasets.getDataset({ datasetId: job.datasetId })).dataset?.name,
    retry: false,
  });
  return (
    <>
      <Link href={`/models/view?id=${job.modelId}`} className={link}>
        {model.data ?? "a model"}
      </Link>{" "}
      on{" "}
      <Link href={`/datasets/view?id=${job.datasetId}`} className={link}>
        {dataset.data ?? "a dataset"}
      </Link>
      {job.attempt > 1 && ` · attempt ${job.attempt}`}
    </>
  );
}

function Progress({ job, loss }: { job: TrainingJob; loss: number | undefined }) {
  const { progress, queue } = job;
  const now = useNow(!isFinal(job.state));
  const start = job.startTime ? timestampMs(job.startTime) : 0;
  const end = job.endTime ? timestampMs(job.endTime) : now;
  const elapsed = start && end > start ? (end - start) / 1000 : 0;
  const fraction = progress?.fraction ?? 0;
  const left = job.state === JobState.RUNNING && fraction > 0.02 ? duration((elapsed / fraction) * (1 - fraction)) : "";
  const facts: [string, ReactNode][] = [
    ["Step", progress?.totalSteps ? `${progress.step} of ${progress.totalSteps}` : "–"],
    ["Loss", loss === undefined ? "–" : measured(loss)],
    ["Epoch", progress?.epoch ? progress.epoch.toFixed(2) : "–"],
    ["Trained for", elapsed ? duration(elapsed) : "–"],
    isFinal(job.state) ? ["Ended", end ? ago(new Date(end)) : "–"] : ["Time left", left || "–"],
    isFinal(job.state) ? ["Attempts", String(job.attempt)] : ["Now", progress?.phase || "waiting"],
  ];
  return (
    <Panel>
      {job.state === JobState.QUEUED && (
        <p className="mb-4 text-sm text-ink-soft" aria-live="polite">
          {[
            queue && queue.position > 0 ? `Number ${queue.position} in the queue.` : "",
            queue ? sentence(queue.message) : "Waiting for a trainer.",
          ]
            .filter(Boolean)
            .join(" ")}
        </p>
      )}
      <Facts facts={facts} />
      <div className="mt-4">
        <Bar
          label="Steps made"
          value={job.state === JobState.COMPLETED ? 1 : fraction}
          max={1}
          tone={job.state === JobState.FAILED ? "bad" : job.state === JobState.COMPLETED ? "good" : "accent"}
        />
      </div>
    </Panel>
  );
}

function useNow(isTicking: boolean): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (!isTicking) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [isTicking]);
  return now;
}

const METRICS: [string, string, (value: number) => string][] = [
  ["learning_rate", "Learning rate", measured],
  ["grad_norm", "Norm of the gradients", measured],
  ["samples_per_second", "Samples a second", measured],
  ["tokens_per_second", "Tokens a second", measured],
  ["step_seconds", "Time of a step", duration],
  ["data_wait_fraction", "Waiting for clips", (value) => `${(value * 100).toFixed(0)} %`],
  ["memory_bytes", "Memory", bytes],
];

function Overview({ story }: { story: JobStory }) {
  const facts = METRICS.flatMap(([name, label, tell]): [string, string][] => {
    const value = story.latest.get(name);
    return value === undefined ? [] : [[label, tell(value)]];
  });
  if (story.curves.steps.length === 0)
    return <Empty title="Nothing has been measured yet">The curve begins with the first step.</Empty>;
  return (
    <div className="space-y-6">
      <LossChart curves={story.curves} version={story.version} />
      <Facts facts={facts} />
    </div>
  );
}

/** Arrow keys move between tabs, as everywhere else. */
function Tabs({
  tabs,
  chosen,
  onChoose,
  children,
}: {
  tabs: readonly Tab[];
  chosen: Tab;
  onChoose: (tab: Tab) => void;
  children: ReactNode;
}) {
  const move = (by: number) => {
    const next = tabs[(tabs.indexOf(chosen) + by + tabs.length) % tabs.length]!;
    onChoose(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  const keys: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1 };
  return (
    <Panel>
      <div
        role="tablist"
        aria-label="Views of the job"
        className="-mx-2 mb-5 flex flex-wrap gap-1 border-b border-line pb-2"
        onKeyDown={(event) => event.key in keys && move(keys[event.key]!)}
      >
        {tabs.map((tab) => (
          <button
            key={tab}
            id={`tab-${tab}`}
            type="button"
            role="tab"
            aria-selected={tab === chosen}
            aria-controls="tab-panel"
            tabIndex={tab === chosen ? 0 : -1}
            onClick={() => onChoose(tab)}
            className={cx(
              "rounded-lg px-3 py-1.5 text-sm font-medium",
              tab === chosen ? "bg-accent-soft text-accent" : "text-ink-soft hover:bg-raised hover:text-ink",
            )}
          >
            {tab}
          </button>
        ))}
      </div>
      <div id="tab-panel" role="tabpanel" aria-labelledby={`tab-${chosen}`}>
        {children}
      </div>
    </Panel>
  );
}
