"use client";

import { useQuery } from "@tanstack/react-query";
import Link from "next/link";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { datasets, models, training } from "@/lib/clients";
import { kindOf, nameOf, wordsOf } from "@/lib/jobs/kinds";

const LINK = "text-accent underline underline-offset-4";

/** What a job was made from, by name. */
export function Origin({ job }: { job: TrainingJob }) {
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
      {job.sourceJobId && <Source job={job} />}
      <Link href={`/models/view?id=${job.modelId}`} className={LINK}>
        {model.data ?? "a model"}
      </Link>{" "}
      on{" "}
      <Link href={`/datasets/view?id=${job.datasetId}`} className={LINK}>
        {dataset.data ?? "a dataset"}
      </Link>
      {job.attempt > 1 && ` · attempt ${job.attempt}`}
    </>
  );
}

function Source({ job }: { job: TrainingJob }) {
  const source = useQuery({
    queryKey: ["job-name", job.sourceJobId],
    queryFn: async () => (await training.getTrainingJob({ jobId: job.sourceJobId })).job,
    retry: false,
  });
  return (
    <>
      {`${wordsOf(job).name} of `}
      <Link href={`/jobs/view?id=${job.sourceJobId}&tab=${kindOf(job)}`} className={LINK}>
        {source.data ? nameOf(source.data) : "a training"}
      </Link>
      {" · "}
    </>
  );
}
