"use client";

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import {
  type ConditionComparison,
  type Evaluation,
  EvaluationCondition,
  type TagResult,
} from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { count, measured, sentence } from "@/lib/format";
import { postTraining } from "@/lib/jobs/after_training";
import {
  CONDITIONS,
  comparisonOf,
  controlsAsked,
  gainVerdict,
  interval,
  type Measure,
  MEASURES,
  orderVerdict,
  percent,
  points,
  toneOf,
  videoVerdict,
} from "@/lib/jobs/evaluation";
import { Table } from "../table";
import { Picker } from "../ui";
import { Unread } from "../unread";
import { Answers } from "./answers";
import { Section, VerdictLine } from "./findings";
import { Difference, ScoreCard } from "./score_card";

/** What an evaluation has found: verdicts first, then what they rest on. */
export function EvaluationResult({ job }: { job: TrainingJob }) {
  const found = useQuery({
    queryKey: ["evaluation", job.id, job.attempt, job.state],
    queryFn: async ({ signal }) => (await postTraining.getEvaluation({ jobId: job.id }, { signal })).evaluation,
    staleTime: Infinity,
  });
  if (!found.data) return <Unread of={found} what="Reading the result …" />;
  const evaluation = found.data;
  const of = (condition: EvaluationCondition) => evaluation.results.find((one) => one.condition === condition);
  const [base, tuned] = [of(EvaluationCondition.BASE), of(EvaluationCondition.TUNED)];
  const gain = comparisonOf(evaluation, EvaluationCondition.TUNED, EvaluationCondition.BASE);
  const asked = controlsAsked(job);
  const isPart = evaluation.rows < evaluation.totalRows;
  return (
    <div className="space-y-8">
      <div className="space-y-2">
        <p className="text-sm text-ink-soft">
          {`${count(evaluation.rows, "row")}${isPart ? ` of ${Number(evaluation.totalRows).toLocaleString("en")}` : ""} of the split “${evaluation.split}”, answered by base and tuned model.`}
        </p>
        <VerdictLine verdict={gainVerdict(evaluation)} />
        {evaluation.notes.length > 0 && (
          <ul className="list-disc space-y-1 pl-5 text-sm">
            {evaluation.notes.map((note) => (
              <li key={note}>{sentence(note)}.</li>
            ))}
          </ul>
        )}
      </div>
      {base && tuned && (
        <div className="grid gap-4 lg:grid-cols-3">
          {MEASURES.map(({ key }) => (
            <ScoreCard key={key} measure={key} base={base} tuned={tuned} gain={gain} of={evaluation} />
          ))}
        </div>
      )}
      <Section title="Does the video matter?">
        <div className="space-y-2">
          <VerdictLine verdict={videoVerdict(evaluation, asked)} />
          <VerdictLine verdict={orderVerdict(evaluation, asked)} />
        </div>
        <Controls evaluation={evaluation} />
      </Section>
      {evaluation.tags.length > 0 && (
        <Section title="By tag">
          <ByTag evaluation={evaluation} />
        </Section>
      )}
      {evaluation.questions.length > 0 && (
        <Section title="Exact match by question">
          <Table
            label="Exact match by question"
            head={["Question", "Rows", ...namesOf(evaluation)]}
            rows={evaluation.questions.map((one) => ({
              key: one.question,
              cells: [one.question, String(one.rows), ...one.exactMatch.map(percent)],
            }))}
          />
        </Section>
      )}
      <Section title="Answers">
        <Answers job={job} />
      </Section>
      <Section title="All measures">
        <AllMeasures evaluation={evaluation} />
        <ul className="list-disc space-y-1 pl-5 text-sm text-ink-soft">
          <li>Answers are compared by: {evaluation.normalization}.</li>
          <li>In brackets, and as a line over each bar: where 95 % of the means would lie if other rows were asked.</li>
        </ul>
      </Section>
    </div>
  );
}

/** How far the tuned model's measures are above those of each control. */
function Controls({ evaluation }: { evaluation: Evaluation }) {
  const controls = evaluation.comparisons.filter((one) => one.against !== EvaluationCondition.BASE);
  if (controls.length === 0) return null;
  const tuned = evaluation.results.find((one) => one.condition === EvaluationCondition.TUNED);
  return (
    <Table
      label="The tuned model with and without the meaning of the clips"
      head={["The tuned model", ...MEASURES.map(({ label }) => label)]}
      rows={[
        { key: "tuned", cells: ["Clips as they are", ...MEASURES.map(({ key }) => percent(tuned?.[key]?.mean ?? 0))] },
        ...controls.map((one) => ({
          key: String(one.against),
          cells: [CONDITIONS[one.against], ...MEASURES.map(({ key }) => <Fall key={key} of={one} measure={key} />)],
        })),
      ]}
    />
  );
}

function Fall({ of, measure }: { of: ConditionComparison; measure: Measure }) {
  const loss = of[measure];
  if (!loss) return "–";
  const change = { ...loss, mean: -loss.mean, low: -loss.high, high: -loss.low };
  return (
    <>
      {points(change.mean)}
      <span className="block text-xs text-ink-soft">{interval(change, true)}</span>
    </>
  );
}

const MEASURE_NAMES = Object.fromEntries(MEASURES.map(({ key, label }) => [key, label])) as Record<Measure, string>;

function ByTag({ evaluation }: { evaluation: Evaluation }) {
  const [measure, setMeasure] = useState<Measure>("tokenF1");
  return (
    <>
      <Picker label="Measure" value={measure} options={MEASURE_NAMES} onChange={setMeasure} />
      <Table
        label={`${MEASURE_NAMES[measure]} by tag`}
        head={["Tag", "Rows", ...namesOf(evaluation), "Gain by tuning"]}
        rows={evaluation.tags.map((one) => ({
          key: one.tag,
          cells: [
            one.tag || "without a tag",
            String(one.rows),
            ...one[measure].map(percent),
            <Gain key="gain" of={one} measure={measure} evaluation={evaluation} />,
          ],
        }))}
      />
    </>
  );
}

function Gain({ of, measure, evaluation }: { of: TagResult; measure: Measure; evaluation: Evaluation }) {
  const gain = of.gain?.[measure];
  if (!gain) return "–";
  return (
    <>
      <Difference difference={gain} tone={toneOf(gain, of.rows, evaluation)} />
      <span className="block text-xs text-ink-soft">{interval(gain, true)}</span>
    </>
  );
}

function AllMeasures({ evaluation }: { evaluation: Evaluation }) {
  return (
    <Table
      label="All measures of all conditions"
      head={["Answered by", "Rows", ...MEASURES.map(({ label }) => label), "Loss"]}
      rows={evaluation.results.map((one) => ({
        key: String(one.condition),
        cells: [
          CONDITIONS[one.condition],
          String(one.rows),
          ...MEASURES.map(({ key }) => (
            <>
              {percent(one[key]?.mean ?? 0)}
              {one[key] && <span className="block text-xs text-ink-soft">{interval(one[key])}</span>}
            </>
          )),
          measured(one.loss),
        ],
      }))}
    />
  );
}

function namesOf(evaluation: Evaluation): string[] {
  return evaluation.results.map((one) => CONDITIONS[one.condition]);
}
