"use client";

import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useEffect, useId, useState } from "react";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { useAttempt } from "@/lib/attempt";
import { datasets } from "@/lib/clients";
import { postTraining, samples } from "@/lib/jobs/after_training";
import { CONTROLS } from "@/lib/jobs/evaluation";
import { mistakeIn, wholeNumber } from "@/lib/jobs/fields";
import { nameAfter } from "@/lib/jobs/kinds";
import { useRequestId } from "@/lib/request_id";
import { Button, Field, INPUT, Problem } from "../ui";
import { EvaluationResult } from "./evaluation_result";
import { Followers } from "./followers";

/** The evaluations of a training, and how to start one. */
export function Evaluations({ job }: { job: TrainingJob }) {
  return <Followers source={job} kind="evaluation" form={EvaluateForm} result={EvaluationResult} />;
}

const FIELDS = ["name", "datasetId", "parameters.split", "parameters.max_rows", "parameters.max_new_tokens"];

function EvaluateForm({ source, onStarted }: { source: TrainingJob; onStarted: () => void }) {
  const [wish, setWish] = useState({ name: "", datasetId: "", split: "", rows: "", tokens: "" });
  const [controls, setControls] = useState(CONTROLS.map((one) => one.control));
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const change = (part: Partial<typeof wish>) => setWish((former) => ({ ...former, ...part }));
  const wrong = { rows: mistakeIn(wish.rows), tokens: mistakeIn(wish.tokens) };
  const complaint = (name: string) => problem?.fields[`parameters.${name}`];
  useEffect(() => {
    // Whoever works by keyboard is taken to what is wrong.
    if (problem) document.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [problem]);
  const start = (event: FormEvent) => {
    event.preventDefault();
    void attempt(async () => {
      await postTraining.evaluateTrainingJob({
        jobId: source.id,
        datasetId: wish.datasetId,
        name: wish.name.trim() || nameAfter(source, "evaluation"),
        parameters: {
          split: wish.split,
          ...wholeNumber("maxRows", wish.rows),
          ...wholeNumber("maxNewTokens", wish.tokens),
          controls: controls.length === CONTROLS.length ? [] : controls,
          withoutControls: controls.length === 0,
        },
        requestId: requestId.for([source.id, wish, controls]),
      });
      requestId.done();
      onStarted();
    });
  };
  const isElsewhere = problem && !Object.keys(problem.fields).some((name) => FIELDS.includes(name));
  return (
    <form onSubmit={start} noValidate className="space-y-5">
      <p className="max-w-prose text-sm text-ink-soft">
        Base and tuned model answer the same rows, and the answers are held against the references. Rows that training
        held out tell most.
      </p>
      <div className="grid gap-x-4 gap-y-5 sm:grid-cols-2 lg:grid-cols-3">
        <DatasetChoice
          source={source}
          value={wish.datasetId}
          onChange={(datasetId) => change({ datasetId, split: "" })}
        />
        <SplitChoice
          datasetId={wish.datasetId || source.datasetId}
          value={wish.split}
          onChange={(split) => change({ split })}
          problem={complaint("split")}
        />
        <Field
          label="Rows"
          hint="Some of them, chosen at random, are quicker."
          inputMode="numeric"
          placeholder="all"
          value={wish.rows}
          onChange={(event) => change({ rows: event.target.value })}
          problem={wrong.rows ?? complaint("max_rows")}
        />
        <Field
          label="Longest answer"
          hint="In tokens; what is longer is cut."
          inputMode="numeric"
          placeholder="64"
          value={wish.tokens}
          onChange={(event) => change({ tokens: event.target.value })}
          problem={wrong.tokens ?? complaint("max_new_tokens")}
        />
        <Field
          label="Name"
          maxLength={100}
          placeholder={nameAfter(source, "evaluation")}
          value={wish.name}
          onChange={(event) => change({ name: event.target.value })}
          problem={problem?.fields.name}
        />
      </div>
      <ControlChoice chosen={controls} onChange={setControls} />
      {isElsewhere && <Problem title="The evaluation was not accepted">{problem.message}</Problem>}
      <Button type="submit" look="primary" isBusy={isBusy} disabled={Boolean(wrong.rows ?? wrong.tokens)}>
        Evaluate
      </Button>
    </form>
  );
}

function ControlChoice({
  chosen,
  onChange,
}: {
  chosen: (typeof CONTROLS)[number]["control"][];
  onChange: (chosen: (typeof CONTROLS)[number]["control"][]) => void;
}) {
  return (
    <fieldset>
      <legend className="mb-1 text-sm font-medium">Ask the tuned model again with</legend>
      <div className="grid gap-x-4 gap-y-2 sm:grid-cols-2 lg:grid-cols-3">
        {CONTROLS.map(({ control, label, hint }) => (
          <label key={control} className="flex items-start gap-2.5 text-sm">
            <input
              type="checkbox"
              className="mt-1 accent-accent"
              checked={chosen.includes(control)}
              onChange={(event) =>
                onChange(event.target.checked ? [...chosen, control] : chosen.filter((one) => one !== control))
              }
            />
            <span>
              {label}
              <span className="block text-ink-soft">{hint}</span>
            </span>
          </label>
        ))}
      </div>
      <p className="mt-2 text-sm text-ink-soft">Each takes as long as asking once more.</p>
    </fieldset>
  );
}

interface ChoiceProps {
  value: string;
  onChange: (value: string) => void;
}

function DatasetChoice({ source, value, onChange }: ChoiceProps & { source: TrainingJob }) {
  const id = useId();
  const list = useQuery({
    queryKey: ["datasets", "ready"],
    queryFn: async ({ signal }) =>
      (await datasets.listDatasets({ pageSize: 200, filter: "state = READY" }, { signal })).datasets,
  });
  const others = list.data?.filter((one) => one.id !== source.datasetId) ?? [];
  return (
    <div>
      <label htmlFor={id} className="mb-1 block text-sm font-medium">
        Dataset
      </label>
      <select id={id} className={INPUT} value={value} onChange={(event) => onChange(event.target.value)}>
        <option value="">the one it was trained on</option>
        {others.map((one) => (
          <option key={one.id} value={one.id}>
            {one.version > 1 ? `${one.name}, version ${one.version}` : one.name}
          </option>
        ))}
      </select>
    </div>
  );
}

function SplitChoice({
  datasetId,
  value,
  onChange,
  problem,
}: ChoiceProps & { datasetId: string; problem: string | undefined }) {
  const id = useId();
  // Where the splits cannot be told, those that were held out can still be asked.
  const splits = useQuery({
    queryKey: ["splits", datasetId],
    queryFn: async ({ signal }) =>
      (await samples.getDatasetStatistics({ datasetId }, { signal })).statistics?.splits ?? [],
    retry: false,
  });
  return (
    <div>
      <label htmlFor={id} className="mb-1 block text-sm font-medium">
        Rows of
      </label>
      <select
        id={id}
        className={INPUT}
        value={value}
        onChange={(event) => onChange(event.target.value)}
        aria-invalid={problem ? true : undefined}
        aria-describedby={problem ? `${id}-note` : undefined}
      >
        <option value="">what training held out</option>
        {splits.data?.map((one) => (
          <option key={one.name} value={one.name}>
            {`${one.name} (${Number(one.count).toLocaleString("en")})`}
          </option>
        ))}
      </select>
      {problem && (
        <p id={`${id}-note`} className="mt-1 text-sm text-bad">
          {problem}
        </p>
      )}
    </div>
  );
}
