// A job trains, or begins with what another one has trained.
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { isFinal } from "./story";

export type Kind = "training" | "evaluation" | "merge";

interface Words {
  /** What the job is. */
  name: string;
  /** What its progress counts. */
  step: string;
  /** What it leaves. */
  artifact: string;
  /** What a stop keeps. */
  kept: string;
  /** What becomes of what was done when a stopped one is tried again. */
  again: string;
}

const WORDS: Record<Kind, Words> = {
  training: {
    name: "Training",
    step: "Step",
    artifact: "adapter",
    kept: "The adapter so far is kept",
    again: "Goes on from the newest checkpoint",
  },
  evaluation: {
    name: "Evaluation",
    step: "Row",
    artifact: "result",
    kept: "What has been answered is kept",
    again: "No row is asked twice",
  },
  merge: {
    name: "Merge",
    step: "Part",
    artifact: "model",
    kept: "A merge that is stopped leaves nothing",
    again: "Begins again",
  },
};

export function kindOf(job: TrainingJob): Kind {
  return job.postTraining?.task.case ?? "training";
}

export function wordsOf(job: TrainingJob): Words {
  return WORDS[kindOf(job)];
}

export function nameOf(job: TrainingJob): string {
  return job.name || job.id;
}

/** The name of a job that begins with this one, unless somebody gives it another: at most 100 characters. */
export function nameAfter(source: TrainingJob, kind: Exclude<Kind, "training">): string {
  const ending = `, ${kind === "merge" ? "merged" : "evaluated"}`;
  return [...nameOf(source)].slice(0, 100 - ending.length).join("") + ending;
}

/** Whether a job that has ended can be asked to go on. */
export function canRetry(state: JobState): boolean {
  return state === JobState.STOPPED || state === JobState.FAILED;
}

/** What the checkpoints of a job are good for. */
export function worthOfCheckpoints(state: JobState): string {
  if (canRetry(state)) return "From the newest one the job goes on when it is tried again.";
  if (isFinal(state))
    return "The job is completed and goes on from none of them; what it has learned is in its adapter.";
  return "From the newest one the job goes on after a loss of its trainer.";
}

/** What it means that a job has none. */
export function withoutCheckpoint(state: JobState): string {
  if (canRetry(state)) return "Tried again, the job begins with its first step.";
  return isFinal(state) ? "The job is completed and needs none." : "The first one is saved on the way.";
}
