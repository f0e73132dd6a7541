import type {
  ConditionComparison,
  ConditionResult,
  Estimate,
  Evaluation,
} from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { interval, type Measure, MEASURES, percent, points, toneOf, type Verdict } from "@/lib/jobs/evaluation";
import { Chip } from "../ui";
import { type Bar, MeasureCard } from "./findings";

/** One measure of base and tuned model, side by side. */
export function ScoreCard({
  measure,
  base,
  tuned,
  gain,
  of,
}: {
  measure: Measure;
  base: ConditionResult;
  tuned: ConditionResult;
  gain: ConditionComparison | undefined;
  of: Evaluation;
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
          {difference && <Difference difference={difference} tone={toneOf(difference, tuned.rows, of)} />}
        </>
      }
      bars={[bar("Base", before), { ...bar("Tuned", after), isStrong: true }]}
    />
  );
}

/** A difference, coloured by what it tells. */
export function Difference({ difference, tone }: { difference: Estimate; tone: Verdict["tone"] }) {
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
