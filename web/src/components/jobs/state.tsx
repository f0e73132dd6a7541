import { JobState, StateReason, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { word } from "@/lib/format";
import { Chip, type Tone } from "../ui";

const STATES: Record<JobState, { tone: Tone; name: string }> = {
  [JobState.UNSPECIFIED]: { tone: "plain", name: "unknown" },
  [JobState.QUEUED]: { tone: "plain", name: "queued" },
  [JobState.STARTING]: { tone: "accent", name: "starting" },
  [JobState.RUNNING]: { tone: "accent", name: "running" },
  [JobState.STOPPING]: { tone: "warn", name: "stopping" },
  [JobState.COMPLETED]: { tone: "good", name: "completed" },
  [JobState.STOPPED]: { tone: "warn", name: "stopped" },
  [JobState.FAILED]: { tone: "bad", name: "failed" },
};

const LIVE = [JobState.STARTING, JobState.RUNNING, JobState.STOPPING];

export function nameOf(state: JobState): string {
  return STATES[state].name;
}

export function StateChip({ job }: { job: TrainingJob }) {
  const { tone, name } = STATES[job.state];
  return (
    <Chip tone={tone} isLive={LIVE.includes(job.state)}>
      {job.isPaused && job.state === JobState.QUEUED ? "paused" : name}
    </Chip>
  );
}

/** `out of memory`; nothing for the ordinary course. */
export function reasonName(reason: StateReason): string {
  return reason === StateReason.UNSPECIFIED ? "" : word(StateReason[reason], "");
}
