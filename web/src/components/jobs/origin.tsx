"use client";

import { useQuery } from "@tanstack/react-query";
import Link from "next/link";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { kindOf, nameOf, wordsOf } from "@/lib/jobs/kinds";
import { datasetName, modelName } from "@/lib/names";

const LINK = "text-accent underline underline-offset-4";

/** What a job was made from, by name. */
export function Origin({ job }: { job: TrainingJob }) {
  const model = useQuery(modelName(job.modelId));
  const dataset = useQuery(datasetName(job.datasetId));
  return (
    <>
      {job.sourceJobId && <Source job={job} />}
      <Link href={`/models/view?id=${job.modelId}`} className={LINK}>
        {model.data || "a model"}
      </Link>{" "}
      on{" "}
      <Link href={`/datasets/view?id=${job.datasetId}`} className={LINK}>
        {dataset.data || "a dataset"}
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
