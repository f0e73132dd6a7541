"use client";

import { useQuery } from "@tanstack/react-query";
import { Download } from "lucide-react";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { untilRead } from "@/lib/reachable";
import { bytes } from "@/lib/format";
import { type Kind, kindOf, wordsOf } from "@/lib/jobs/kinds";
import { Unread } from "../unread";

const USES: Record<Kind, string> = {
  training:
    "Plain files of PEFT: put them into one folder and load it with PeftModel.from_pretrained. The README among them says how.",
  evaluation: "What was found as JSON, every answer as JSON lines, and a README to be put beside the adapter.",
  merge:
    "A model of its own: put the files into one folder and load it with AutoModelForImageTextToText.from_pretrained. No peft is needed.",
};

/** What a job has made. The files' addresses end after a quarter of an hour, so they are asked for again before. */
export function ArtifactPanel({ job }: { job: TrainingJob }) {
  const { id: jobId, name } = job;
  const { artifact } = wordsOf(job);
  const found = useQuery({
    queryKey: ["artifact", jobId, job.attempt, job.state],
    queryFn: async ({ signal }) => (await training.getArtifact({ jobId }, { signal })).artifact,
    refetchInterval: (query) => untilRead(query) || 10 * 60_000,
  });
  if (!found.isSuccess) return <Unread of={found} what={`Looking for the ${artifact} …`} />;
  return (
    <>
      <p className="mb-3 text-sm break-words text-ink-soft">
        {`${bytes(found.data?.sizeBytes ?? 0)} in all. ${USES[kindOf(job)]}`}
      </p>
      <ul className="divide-y divide-line text-sm">
        {found.data?.files.map((file) => (
          <li key={file.path} className="flex items-center gap-4 py-2">
            <a
              href={file.url}
              download={file.path.split("/").at(-1)}
              className="flex min-w-0 flex-1 items-center gap-2 font-mono text-[0.8125rem] break-all text-accent underline underline-offset-4"
            >
              <Download aria-hidden className="size-4 shrink-0" />
              {file.path}
            </a>
            <span className="text-ink-soft tabular-nums">{bytes(file.sizeBytes)}</span>
          </li>
        ))}
      </ul>
      <p className="mt-3 text-sm text-ink-soft">
        All at once:{" "}
        <code className="font-mono text-xs">
          reeltune train download {jobId} --to {/^[\w.-]+$/.test(name) ? name : artifact}
        </code>
      </p>
    </>
  );
}
