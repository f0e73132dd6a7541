"use client";

import { useState } from "react";
import type { Prediction, Predictions } from "@/gen/reeltune/scheduler/v1/prediction_pb";
import { measured } from "@/lib/format";
import { Chip, Picker } from "../ui";

const NEWEST = "";

/** What the adapter answered to held-out rows on its way: those with the lowest loss, and those with the highest. */
export function PredictionList({ told }: { told: readonly Predictions[] }) {
  const [step, setStep] = useState(NEWEST);
  const newestFirst = told.toReversed();
  const shown = newestFirst.find((one) => String(one.step) === step) ?? newestFirst[0];
  if (!shown) return null;
  const steps = Object.fromEntries(
    newestFirst.map((one, index) => [
      index === 0 ? NEWEST : String(one.step),
      `${one.step}${index === 0 ? ", the newest" : ""}`,
    ]),
  );
  return (
    <div className="space-y-5">
      <div className="flex flex-wrap items-center justify-between gap-x-6 gap-y-2">
        <p className="max-w-prose text-sm text-ink-soft">
          Answers to held-out rows at each measurement of their loss, without sampling.
        </p>
        <Picker
          label="After step"
          value={newestFirst[0] === shown ? NEWEST : step}
          options={steps}
          onChange={setStep}
        />
      </div>
      <div className="grid gap-6 lg:grid-cols-2">
        <Side title="Lowest loss" rows={shown.best} />
        <Side title="Highest loss" rows={shown.worst} />
      </div>
    </div>
  );
}

function Side({ title, rows }: { title: string; rows: readonly Prediction[] }) {
  return (
    <section className="space-y-3">
      <h2 className="text-sm font-semibold">{title}</h2>
      {rows.length === 0 && <p className="text-sm text-ink-soft">No row.</p>}
      <ul className="space-y-3">
        {rows.map((row) => (
          <li key={row.sampleId} className="rounded-lg border border-line bg-ground p-4 text-sm">
            <div className="flex items-start justify-between gap-3">
              <p dir="auto" className="min-w-0 break-words whitespace-pre-wrap text-ink-soft">
                {row.question}
              </p>
              <Chip tone={isSame(row) ? "good" : "plain"}>{`loss ${measured(row.loss)}`}</Chip>
            </div>
            <dl className="mt-2 grid gap-x-4 gap-y-1 sm:grid-cols-[5.5rem_1fr]">
              <dt className="text-ink-soft">Expected</dt>
              <dd dir="auto" className="font-medium break-words whitespace-pre-wrap">
                {row.expected}
              </dd>
              <dt className="text-ink-soft">Answered</dt>
              <dd dir="auto" className="break-words whitespace-pre-wrap">
                {row.generated.trim() ? row.generated : <em className="text-ink-soft">said nothing</em>}
                {row.isCut && <span className="text-ink-soft"> … (cut)</span>}
              </dd>
            </dl>
          </li>
        ))}
      </ul>
    </section>
  );
}

function isSame(row: Prediction): boolean {
  return row.generated.trim().toLowerCase() === row.expected.trim().toLowerCase();
}
