// What results are told with.
import { CircleCheck, CircleHelp, CircleMinus, CircleX } from "lucide-react";
import type { ReactNode } from "react";
import type { Verdict } from "@/lib/jobs/evaluation";
import { cx } from "../ui";

export function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="space-y-4">
      <h3 className="text-sm font-semibold">{title}</h3>
      {children}
    </section>
  );
}

const LOOKS = {
  good: { Icon: CircleCheck, colour: "text-good" },
  warn: { Icon: CircleMinus, colour: "text-warn" },
  bad: { Icon: CircleX, colour: "text-bad" },
  plain: { Icon: CircleHelp, colour: "text-ink-soft" },
};

/** A sentence, and how good it is. */
export function VerdictLine({ verdict: { tone, text } }: { verdict: Verdict }) {
  const { Icon, colour } = LOOKS[tone];
  return (
    <p className="flex items-start gap-2.5 text-[0.9375rem] leading-6">
      <Icon aria-hidden className={cx("mt-0.5 size-5 shrink-0", colour)} />
      <span className="max-w-prose">{text}</span>
    </p>
  );
}

export interface Bar {
  name: string;
  /** What it says. */
  text: ReactNode;
  /** How long it is: 0 to 1. */
  share: number;
  /** From where to where a line over it goes. */
  range?: [number, number];
  isStrong?: boolean;
}

/** A few amounts side by side. */
export function Bars({ bars }: { bars: Bar[] }) {
  return (
    <dl className="mt-3 grid grid-cols-[auto_1fr] items-center gap-x-2 gap-y-0.5 text-xs">
      {bars.map((bar) => (
        <div key={bar.name} className="contents">
          <dt className="text-ink-soft">{bar.name}</dt>
          <dd className="contents">
            <svg aria-hidden viewBox="0 0 100 10" preserveAspectRatio="none" className="h-2.5 w-full overflow-visible">
              <rect width="100" height="10" rx="1" className="fill-raised" />
              <rect
                width={at(bar.share)}
                height="10"
                rx="1"
                className={bar.isStrong ? "fill-accent" : "fill-line-strong"}
              />
              {bar.range && (
                <path
                  d={whisker(...bar.range)}
                  className="fill-none stroke-ink"
                  strokeWidth="1.5"
                  vectorEffect="non-scaling-stroke"
                />
              )}
            </svg>
            <span className="col-start-2 mb-1 tabular-nums">{bar.text}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}

function at(share: number): number {
  return Math.max(0, Math.min(share, 1)) * 100;
}

function whisker(low: number, high: number): string {
  return `M${at(low)} 5H${at(high)}M${at(low)} 1V9M${at(high)} 1V9`;
}

/** One measure: its name, what it means, and the amounts. */
export function MeasureCard({
  title,
  hint,
  headline,
  bars,
}: {
  title: string;
  hint: string;
  headline: ReactNode;
  bars: Bar[];
}) {
  return (
    <div className="rounded-lg border border-line bg-ground p-4">
      <p className="text-sm font-semibold">{title}</p>
      <p className="text-xs text-ink-soft">{hint}</p>
      <div className="mt-3 flex flex-wrap items-center gap-x-3 gap-y-1 text-3xl font-semibold tracking-tight tabular-nums">
        {headline}
      </div>
      <Bars bars={bars} />
    </div>
  );
}
