import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { valuesOf } from "@/lib/jobs/parameters";

/** Every value in force: a job never says "default". */
export function ParameterList({ job }: { job: TrainingJob }) {
  return (
    <dl className="grid gap-x-8 text-sm sm:grid-cols-2">
      {valuesOf(job).map(([name, value]) => (
        <div key={name} className="flex justify-between gap-4 border-b border-line py-1.5">
          <dt className="font-mono text-[0.8125rem] break-all text-ink-soft">{name}</dt>
          <dd className="text-right font-medium tabular-nums">{value}</dd>
        </div>
      ))}
    </dl>
  );
}
