"use client";

import { useSearchParams } from "next/navigation";
import { lazy, type ReactNode, Suspense } from "react";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { bytes, duration, measured, sentence } from "@/lib/format";
import { kindOf, nameOf } from "@/lib/jobs/kinds";
import { isFinal, type JobStory } from "@/lib/jobs/story";
import { useTitle } from "@/lib/title";
import { type Tab, Tabs } from "../tabs";
import { Button, Empty, Facts, Loading, PageTitle, Problem } from "../ui";
import { ArtifactPanel } from "./artifact";
import { Happenings } from "./happenings";
import { LogView } from "./log_view";
import { LossChart } from "./loss_chart";
import { Origin } from "./origin";
import { ParameterList } from "./parameter_list";
import { Progress } from "./progress";
import { reasonName, StateChip } from "./state";
import { TryIt } from "./try_it";
import { useJob } from "./use_job";
import { Verbs } from "./verbs";

// Fetched when somebody asks for it.
const Evaluations = lazy(async () => ({ default: (await import("./evaluations")).Evaluations }));
const EvaluationResult = lazy(async () => ({ default: (await import("./evaluation_result")).EvaluationResult }));

const Checkpoints = lazy(async () => ({ default: (await import("./checkpoints")).Checkpoints }));
const PredictionList = lazy(async () => ({ default: (await import("./predictions")).PredictionList }));
const Ranks = lazy(async () => ({ default: (await import("./ranks")).Ranks }));
const Merges = lazy(async () => ({ default: (await import("./merges")).Merges }));
const MergeResult = lazy(async () => ({ default: (await import("./merge_result")).MergeResult }));

export function JobPage() {
  const id = useSearchParams().get("id") ?? "";
  // Another job begins with nothing of this one's.
  return id ? <OneJob key={id} id={id} /> : <Empty title="This address names no job" />;
}

function OneJob({ id }: { id: string }) {
  const { story, isBroken, problem, again } = useJob(id);
  const { job } = story;
  useTitle(job && nameOf(job));
  if (problem && !job) return <Problem action={<Button onClick={again}>Try again</Button>}>{problem}</Problem>;
  if (!job) return <Loading what={isBroken ? "The service cannot be reached. Trying again …" : "Loading the job …"} />;
  return (
    <>
      <PageTitle title={nameOf(job)} chip={<StateChip job={job} />} action={<Verbs job={job} onMoved={again} />}>
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
        <Tabs label="Views of the job" tabs={tabsOf(story, job)} />
      </div>
    </>
  );
}

function tabsOf(story: JobStory, job: TrainingJob): Tab[] {
  const kind = kindOf(job);
  const told: Tab[] = [
    { name: "Log", content: () => <LogView lines={story.lines} version={story.version} name={nameOf(job)} /> },
    { name: "Events", content: () => <Happenings happenings={story.happenings} /> },
    { name: "Parameters", content: () => <ParameterList job={job} /> },
  ];
  if (kind !== "training") {
    const result: Tab = { name: "Result", content: () => <Result job={job} /> };
    const files: Tab = { name: "Files", content: () => <ArtifactPanel job={job} /> };
    // The files of a merge are its result.
    return [result, ...told, ...(kind === "evaluation" && job.hasArtifact ? [files] : [])];
  }
  const saved = story.happenings.filter((one) => one.what.kind === "checkpoint").length;
  const answers: Tab = { name: "Answers", content: () => <Later of={<PredictionList told={story.predictions} />} /> };
  const ranks: Tab = { name: "Ranks", content: () => <Later of={<Ranks job={job} />} /> };
  const made: Tab[] = [
    ...(job.parameters?.lora?.rankAllocation ? [ranks] : []),
    { name: "Adapter", content: () => <ArtifactPanel job={job} /> },
    { name: "Try it", content: () => <TryIt job={job} /> },
  ];
  const after: Tab[] = [
    { name: "Evaluation", content: () => <Later of={<Evaluations job={job} />} /> },
    { name: "Merge", content: () => <Later of={<Merges job={job} />} /> },
  ];
  return [
    { name: "Overview", content: () => <Overview story={story} /> },
    ...told,
    { name: "Checkpoints", content: () => <Later of={<Checkpoints job={job} told={saved} />} /> },
    ...(story.predictions.length > 0 ? [answers] : []),
    ...(job.hasArtifact ? made : []),
    ...(job.hasArtifact && isFinal(job.state) ? after : []),
  ];
}

function Result({ job }: { job: TrainingJob }) {
  if (!job.hasArtifact)
    return (
      <Empty title={isFinal(job.state) ? "There is no result" : "There is no result yet"}>
        {!isFinal(job.state) && "It stands here as soon as the job has ended."}
      </Empty>
    );
  return (
    <>
      <h2 className="sr-only">Result</h2>
      <Later of={kindOf(job) === "merge" ? <MergeResult job={job} /> : <EvaluationResult job={job} />} />
    </>
  );
}

function Later({ of }: { of: ReactNode }) {
  return <Suspense fallback={<Loading what="Loading …" />}>{of}</Suspense>;
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
