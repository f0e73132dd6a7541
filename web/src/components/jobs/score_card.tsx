import type { ConditionComparison, ConditionResult, Estimate } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { directionOf, interval, type Measure, MEASURES, percent, points } from "@/lib/jobs/evaluation";
import { Chip } from "../ui";
import { type Bar, MeasureCard } from "./findings";

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
    <MeasureCard
      title={label}
      hint={hint}
      headline={
        <>
          {percent(after.mean)}
          {difference && <Difference difference={difference} />}
        </>
      }
      bars={[bar("Base", before), { ...bar("Tuned", after), isStrong: true }]}
    />
  );
}

/** A difference, coloured where it can be told from chance. */
export function Difference({ difference }: { difference: Estimate }) {
  const tone = ({ 1: "good", 0: "plain", [-1]: "bad" } as const)[directionOf(difference)];
  return (
    <span className="tracking-normal" title={`95 % interval: ${interval(difference, true)}`}>
      <Chip tone={tone}>{points(difference.mean)}</Chip>
    </span>
  );
}

/** The mean as a bar, and its interval as a line over it. */
function bar(name: string, estimate: Estimate): Bar {
  const text = (
    <>
      {percent(estimate.mean)} <span className="text-ink-soft">({interval(estimate)})</span>
    </>
  );
  return { name, text, share: estimate.mean, range: [estimate.low, estimate.high] };
}
