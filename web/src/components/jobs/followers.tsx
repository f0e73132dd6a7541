"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import Link from "next/link";
import { type ReactNode, useState } from "react";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { ago, sentence } from "@/lib/format";
import { kindOf, nameOf, wordsOf } from "@/lib/jobs/kinds";
import { isFinal } from "@/lib/jobs/story";
import { untilRead } from "@/lib/reachable";
import { Bar, Button, Problem } from "../ui";
import { Unread } from "../unread";
import { reasonName, StateChip } from "./state";
import { Verbs } from "./verbs";

const REFRESH_MS = 2_000;
const SHOWN = 100;

/** Called with the job that was started, as soon as it was. */
export type OnStarted = (job: TrainingJob | undefined) => void;

/** The jobs of a kind that began with this one, the newest first and open, as they come along. */
export function Followers({
  source,
  kind,
  form: Form,
  result: Result,
}: {
  source: TrainingJob;
  kind: "evaluation" | "merge";
  form: (props: { source: TrainingJob; onStarted: OnStarted }) => ReactNode;
  result: (props: { job: TrainingJob }) => ReactNode;
}) {
  const [open, setOpen] = useState<string>();
  const [isAsking, setAsking] = useState(false);
  const client = useQueryClient();
  const queryKey = ["followers", source.id];
  const list = useQuery({
    queryKey,
    queryFn: async ({ signal }) =>
      (await training.listTrainingJobs({ pageSize: SHOWN, filter: `source_job_id = "${source.id}"` }, { signal })).jobs,
    refetchInterval: (query) =>
      untilRead(query) || (query.state.data?.some((job) => !isFinal(job.state)) ? REFRESH_MS : false),
  });
  const again = () => void list.refetch();
  const started: OnStarted = (job) => {
    // At once, and not when the list is read again: a form that is still there would start another one.
    if (job)
      client.setQueryData<TrainingJob[]>(queryKey, (known = []) => [job, ...known.filter((one) => one.id !== job.id)]);
    setOpen(undefined);
    setAsking(false);
    again();
  };
  const found = list.data?.filter((job) => kindOf(job) === kind) ?? [];
  const chosen = open ?? found.find((job) => job.hasArtifact)?.id;
  return (
    <div className="space-y-6">
      {found.length > 0 && !isAsking ? (
        <Button onClick={() => setAsking(true)}>
          <Plus aria-hidden className="size-4" />
          {`Another ${kind}`}
        </Button>
      ) : (
        !list.isPending && <Form source={source} onStarted={started} />
      )}
      {(list.isPending || list.isError) && <Unread of={list} what={`Looking for ${kind}s …`} />}
      {found.map((job) => (
        <Card
          key={job.id}
          job={job}
          isOpen={job.id === chosen}
          onOpen={(isOpen) => setOpen(isOpen ? job.id : "")}
          onMoved={again}
        >
          <Result job={job} />
        </Card>
      ))}
    </div>
  );
}

function Card({
  job,
  isOpen,
  onOpen,
  onMoved,
  children,
}: {
  job: TrainingJob;
  isOpen: boolean;
  onOpen: (isOpen: boolean) => void;
  onMoved: () => void;
  children: ReactNode;
}) {
  return (
    <section className="space-y-4 border-t border-line pt-6" aria-label={nameOf(job)}>
      <div className="flex flex-wrap items-center justify-between gap-x-6 gap-y-2">
        <div className="min-w-0">
          <h2 className="flex flex-wrap items-center gap-x-3 gap-y-1 font-semibold">
            <Link href={`/jobs/view?id=${job.id}`} className="break-words underline-offset-4 hover:underline">
              {nameOf(job)}
            </Link>
            <StateChip job={job} />
          </h2>
          <p className="text-sm text-ink-soft">{said(job)}</p>
        </div>
        <div className="flex flex-wrap gap-2">
          {job.hasArtifact && (
            <Button aria-expanded={isOpen} onClick={() => onOpen(!isOpen)}>
              {isOpen ? "Hide the result" : "Show the result"}
            </Button>
          )}
          <Verbs job={job} onMoved={onMoved} onDeleted={onMoved} />
        </div>
      </div>
      {!isFinal(job.state) && <Bar label={`Progress of ${nameOf(job)}`} value={job.progress?.fraction ?? 0} max={1} />}
      {job.state === JobState.FAILED && (
        <Problem title={sentence(reasonName(job.reason)) || "It failed"}>{sentence(job.message)}</Problem>
      )}
      {job.hasArtifact && isOpen && children}
    </section>
  );
}

function said(job: TrainingJob): string {
  const { progress, queue } = job;
  if (job.state === JobState.QUEUED) return queue ? sentence(queue.message) : "Waiting for a trainer.";
  if (isFinal(job.state)) return job.endTime ? sentence(ago(timestampDate(job.endTime))) : "";
  const steps = progress?.totalSteps ? `${wordsOf(job).step} ${progress.step} of ${progress.totalSteps}` : "";
  return [steps, progress?.phase ? sentence(progress.phase) : ""].filter(Boolean).join(" · ");
}
