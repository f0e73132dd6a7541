import type { ConditionComparison, ConditionResult, Estimate } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { directionOf, interval, type Measure, MEASURES, percent, points } from "@/lib/jobs/evaluation";
import { Chip } from "../ui";

/** One measure of base and tuned model, side by side. */
export function ScoreCard({
  measure,
  base,
  tuned,
  gain,
}: {
  measure: Measure;
  base: ConditionResult;
  tuned: ConditionResult;
  gain: ConditionComparison | undefined;
}) {
  const { label, hint } = MEASURES.find((one) => one.key === measure)!;
  const [before, after, difference] = [base[measure], tuned[measure], gain?.[measure]];
  if (!before || !after) return null;
  return (
    <div className="rounded-lg border border-line bg-ground p-4">
      <p className="text-sm font-semibold">{label}</p>
      <p className="text-xs text-ink-soft">{hint}</p>
      <p className="mt-3 flex flex-wrap items-center gap-x-3 gap-y-1">
        <span className="text-3xl font-semibold tracking-tight tabular-nums">{percent(after.mean)}</span>
        {difference && <Difference difference={difference} />}
      </p>
      <dl className="mt-3 space-y-2">
        <Score name="Base" estimate={before} colour="fill-line-strong" />
        <Score name="Tuned" estimate={after} colour="fill-accent" />
      </dl>
    </div>
  );
}

/** A difference, coloured where it can be told from chance. */
export function Difference({ difference }: { difference: Estimate }) {
  const tone = ({ 1: "good", 0: "plain", [-1]: "bad" } as const)[directionOf(difference)];
  return (
    <span title={`95 % interval: ${interval(difference, true)}`}>
      <Chip tone={tone}>{points(difference.mean)}</Chip>
    </span>
  );
}

/** The mean as a bar, and its interval as a line over it. */
function Score({ name, estimate, colour }: { name: string; estimate: Estimate; colour: string }) {
  const at = (value: number) => Math.max(0, Math.min(value, 1)) * 100;
  return (
    <div className="grid grid-cols-[3.25rem_1fr] items-center gap-x-2 gap-y-0.5 text-xs">
      <dt className="text-ink-soft">{name}</dt>
      <dd className="contents">
        <svg aria-hidden viewBox="0 0 100 10" preserveAspectRatio="none" className="h-2.5 w-full overflow-visible">
          <rect width="100" height="10" rx="1" className="fill-raised" />
          <rect width={at(estimate.mean)} height="10" rx="1" className={colour} />
          <path
            d={`M${at(estimate.low)} 5H${at(estimate.high)}M${at(estimate.low)} 1V9M${at(estimate.high)} 1V9`}
            className="fill-none stroke-ink"
            strokeWidth="1.5"
            vectorEffect="non-scaling-stroke"
          />
        </svg>
        <span className="col-start-2 tabular-nums">
          {percent(estimate.mean)} <span className="text-ink-soft">({interval(estimate)})</span>
        </span>
      </dd>
    </div>
  );
}
