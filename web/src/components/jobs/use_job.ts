"use client";

import { useEffect, useRef, useState } from "react";
import type { WatchTrainingJobResponse } from "@/gen/reeltune/scheduler/v1/training_history_pb";
import { training } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { JobStory } from "@/lib/jobs/story";
import { answered, follow } from "@/lib/watch";

/** Up to so many events a job is told from its first one on; of a longer one the newest, and its curves in buckets. */
const TOLD = 4_000n;
const BUCKETS = 2_000;

/** The job's story, told again at most once a frame. `again` begins anew: a job that was over moves on after a retry. */
export function useJob(id: string) {
  const story = useRef(new JobStory());
  const [, redraw] = useState(0);
  const [isBroken, setBroken] = useState(false);
  const [problem, setProblem] = useState("");
  const [round, setRound] = useState(0);

  useEffect(() => {
    if (!id) return;
    const stop = new AbortController();
    const told = new JobStory();
    let frame = 0;
    const show = () => {
      if (frame || stop.signal.aborted) return;
      frame = requestAnimationFrame(() => {
        frame = 0;
        story.current = told;
        redraw((count) => count + 1);
      });
    };
    async function renew() {
      const { job } = await training.getTrainingJob({ jobId: id }, { signal: stop.signal });
      if (job) told.renew(job);
      show();
    }
    async function run() {
      await answered(() => prepare(told, id, stop.signal), stop.signal, setBroken);
      const open = (signal: AbortSignal) =>
        training.watchTrainingJob({ jobId: id, afterSequence: told.sequence }, { signal });
      const onMessage = (message: WatchTrainingJobResponse) => {
        const before = told.job?.state;
        told.take(message);
        show();
        if (before !== undefined && before !== told.job?.state) void renew().catch(() => undefined); // the next change, or the end, reads it again
      };
      await follow({ open, onMessage, onBroken: setBroken }, stop.signal);
      if (!stop.signal.aborted) await answered(renew, stop.signal, setBroken);
    }
    run().catch((error: unknown) => stop.signal.aborted || setProblem(explain(error).message));
    return () => {
      stop.abort();
      cancelAnimationFrame(frame);
      setBroken(false);
      setProblem("");
    };
  }, [id, round]);

  return { story: story.current, isBroken, problem, again: () => setRound((count) => count + 1) };
}

async function prepare(story: JobStory, jobId: string, signal: AbortSignal): Promise<void> {
  const { job } = await training.getTrainingJob({ jobId }, { signal });
  if (!job || job.sequence <= TOLD) return;
  const { series } = await training.listMetrics(
    { jobId, maxPoints: BUCKETS, names: ["loss", "eval_loss"] },
    { signal },
  );
  story.begin(series);
  story.sequence = job.sequence - TOLD / 2n;
}
