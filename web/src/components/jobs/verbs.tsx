"use client";

import Link from "next/link";
import { useRouter } from "next/navigation";
import { useRef } from "react";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { useAttempt } from "@/lib/attempt";
import { training } from "@/lib/clients";
import { canRetry, kindOf, nameOf, wordsOf } from "@/lib/jobs/kinds";
import { isFinal } from "@/lib/jobs/story";
import { useRequestId } from "@/lib/request_id";
import { Dialog } from "../dialog";
import { Button, buttonClass, Problem } from "../ui";

/** What its owner may do with a job in its state. Once it is deleted, the list of jobs is shown, unless it is told what to do. */
export function Verbs({ job, onMoved, onDeleted }: { job: TrainingJob; onMoved: () => void; onDeleted?: () => void }) {
  const router = useRouter();
  const dialog = useRef<HTMLDialogElement>(null);
  const { isBusy, problem, attempt } = useAttempt();
  // How a deletion fails is told in its dialog: what is behind it cannot be read.
  const removal = useAttempt();
  const requestId = useRequestId();
  const call = (verb: string, work: (request: { jobId: string; requestId: string }) => Promise<unknown>) =>
    void attempt(async () => {
      await work({ jobId: job.id, requestId: requestId.for([verb, job.id]) });
      requestId.done();
      onMoved();
    });
  const remove = () =>
    void removal.attempt(async () => {
      await training.deleteTrainingJob({ jobId: job.id, requestId: requestId.for(["delete", job.id]) });
      if (!onDeleted) return router.replace("/jobs");
      dialog.current?.close();
      onDeleted();
    });
  const words = wordsOf(job);
  const isQueued = job.state === JobState.QUEUED;
  const canStop = isQueued || job.state === JobState.STARTING || job.state === JobState.RUNNING;
  return (
    <>
      {isQueued && !job.isPaused && (
        <Button
          isBusy={isBusy}
          onClick={() => call("pauseTrainingJob", (request) => training.pauseTrainingJob(request))}
        >
          Pause
        </Button>
      )}
      {isQueued && job.isPaused && (
        <Button
          isBusy={isBusy}
          onClick={() => call("resumeTrainingJob", (request) => training.resumeTrainingJob(request))}
        >
          Resume
        </Button>
      )}
      {canStop && (
        <Button
          look="danger"
          isBusy={isBusy}
          onClick={() => call("stopTrainingJob", (request) => training.stopTrainingJob(request))}
          title={words.kept}
        >
          Stop
        </Button>
      )}
      {canRetry(job.state) && (
        <Button
          isBusy={isBusy}
          onClick={() => call("retryTrainingJob", (request) => training.retryTrainingJob(request))}
          title={words.again}
        >
          Try again
        </Button>
      )}
      {kindOf(job) === "training" && (
        <Link href={`/jobs/new?like=${job.id}`} className={buttonClass()}>
          Another like it
        </Link>
      )}
      {isFinal(job.state) && (
        <Button look="danger" onClick={() => (removal.forget(), dialog.current?.showModal())}>
          Delete
        </Button>
      )}
      {problem && <Problem>{problem.message}</Problem>}
      <Dialog ref={dialog} title={`Delete ${nameOf(job)}?`}>
        <p className="mb-4 text-sm text-ink-soft">
          {`Its log, checkpoints and ${words.artifact} go with it, at once and for good.`}
        </p>
        {removal.problem && <Problem title="It was not deleted">{removal.problem.message}</Problem>}
        <div className="mt-4 flex justify-end gap-2">
          <Button look="quiet" onClick={() => dialog.current?.close()}>
            Keep it
          </Button>
          <Button look="danger" isBusy={removal.isBusy} onClick={remove}>
            Delete
          </Button>
        </div>
      </Dialog>
    </>
  );
}
