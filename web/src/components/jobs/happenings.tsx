import { JobState } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { bytes, sentence } from "@/lib/format";
import type { Happening } from "@/lib/jobs/story";
import { Empty } from "../ui";
import { nameOf, reasonName } from "./state";

/** What happened to the job, the newest first. */
export function Happenings({ happenings }: { happenings: readonly Happening[] }) {
  if (happenings.length === 0) return <Empty title="Nothing has happened yet" />;
  return (
    <ol className="divide-y divide-line text-sm">
      {happenings.toReversed().map((one) => (
        <li key={String(one.sequence)} className="grid gap-x-4 py-2.5 sm:grid-cols-[11rem_1fr]">
          <time dateTime={new Date(one.timeMs).toISOString()} className="text-ink-soft tabular-nums">
            {new Date(one.timeMs).toLocaleString("en-GB")}
          </time>
          <div>
            <p className="font-medium">{titleOf(one)}</p>
            {one.what.kind === "state" && one.what.change.message && (
              <p className="text-ink-soft">{sentence(one.what.change.message)}</p>
            )}
          </div>
        </li>
      ))}
    </ol>
  );
}

function titleOf({ what, attempt }: Happening): string {
  if (what.kind === "checkpoint") return `Checkpoint at step ${what.step}, ${bytes(what.sizeBytes)}`;
  const reason = reasonName(what.change.reason);
  const name = sentence(nameOf(what.change.to)) + (reason ? `: ${reason}` : "");
  return what.change.to === JobState.STARTING && attempt > 1 ? `${name}, attempt ${attempt}` : name;
}
