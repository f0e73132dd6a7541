"use client";

import { timestampMs } from "@bufbuild/protobuf/wkt";
import { type ReactNode, useEffect, useState } from "react";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { ago, duration, measured, sentence } from "@/lib/format";
import { kindOf, wordsOf } from "@/lib/jobs/kinds";
import { isFinal } from "@/lib/jobs/story";
import { Bar, Facts, Panel } from "../ui";

/** How far a job is, and why it waits. */
export function Progress({ job, loss }: { job: TrainingJob; loss: number | undefined }) {
  const { progress, queue } = job;
  const now = useNow(!isFinal(job.state));
  const start = job.startTime ? timestampMs(job.startTime) : 0;
  const end = job.endTime ? timestampMs(job.endTime) : now;
  const elapsed = start && end > start ? (end - start) / 1000 : 0;
  const fraction = progress?.fraction ?? 0;
  const left = job.state === JobState.RUNNING && fraction > 0.02 ? duration((elapsed / fraction) * (1 - fraction)) : "";
  const isTraining = kindOf(job) === "training";
  const learned: [string, ReactNode][] = [
    ["Loss", loss === undefined ? "–" : measured(loss)],
    ["Epoch", progress?.epoch ? progress.epoch.toFixed(2) : "–"],
  ];
  const facts: [string, ReactNode][] = [
    [wordsOf(job).step, progress?.totalSteps ? `${progress.step} of ${progress.totalSteps}` : "–"],
    ...(isTraining ? learned : []),
    [isTraining ? "Trained for" : "Worked for", elapsed ? duration(elapsed) : "–"],
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
          label={`${wordsOf(job).step}s made`}
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
