"use client";

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import type { EvaluationControl } from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { useAttempt } from "@/lib/attempt";
import { datasets } from "@/lib/clients";
import type { Problem } from "@/lib/errors";
import { postTraining, samples } from "@/lib/jobs/after_training";
import { CONTROLS } from "@/lib/jobs/evaluation";
import { mistakeIn, numberAs } from "@/lib/jobs/fields";
import { nameAfter } from "@/lib/jobs/kinds";
import { heldOutWords, lackOfRows, shown, type Split } from "@/lib/jobs/rows_asked";
import { useRequestId } from "@/lib/request_id";
import { NumberField } from "../number_field";
import { Field, SelectField } from "../ui";
import { EvaluationResult } from "./evaluation_result";
import { Followers, type OnStarted } from "./followers";
import { AfterForm } from "./form";
import {
  AnswerLengthField,
  DeviceClassField,
  deviceClassOf,
  LEAST_PRIORITY,
  MoreOptions,
  MOST_PRIORITY,
  MOST_TEMPERATURE,
  PriorityField,
  TemperatureField,
} from "./options";

/** The evaluations of a training, and how to start one. */
export function Evaluations({ job }: { job: TrainingJob }) {
  return <Followers source={job} kind="evaluation" form={EvaluateForm} result={EvaluationResult} />;
}

const FIELDS = [
  "name",
  "dataset_id",
  "device_class",
  "priority",
  "parameters.split",
  "parameters.max_rows",
  "parameters.max_new_tokens",
  "parameters.temperature",
  "parameters.seed",
];
/** As the contract bounds them. */
const MOST_ROWS = 100_000;
const MOST_TOKENS = 4096;
const MOST_SEED = 2 ** 32 - 1;

interface Wish {
  name: string;
  datasetId: string;
  split: string;
  rows: string;
  tokens: string;
  temperature: string;
  seed: string;
  priority: string;
  deviceClass: string;
  controls: readonly EvaluationControl[];
}

const ALL_CONTROLS = CONTROLS.map((one) => one.control);
const AS_USUAL: Wish = {
  name: "",
  datasetId: "",
  split: "",
  rows: "",
  tokens: "",
  temperature: "",
  seed: "",
  priority: "",
  deviceClass: "",
  controls: ALL_CONTROLS,
};

function EvaluateForm({ source, onStarted }: { source: TrainingJob; onStarted: OnStarted }) {
  const [wish, setWish] = useState(AS_USUAL);
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const change = (part: Partial<Wish>) => setWish((former) => ({ ...former, ...part }));
  const splits = useSplits(wish.datasetId || source.datasetId);
  const lack = lackOfRows(splits, wish.split);
  const start = () =>
    void attempt(async () => {
      const { job } = await postTraining.evaluateTrainingJob({
        ...requestOf(source, wish),
        requestId: requestId.for([source.id, wish]),
      });
      requestId.done();
      onStarted(job);
    });
  return (
    <AfterForm
      kind="evaluation"
      verb="Evaluate"
      about="Base and tuned model answer the same rows, and the answers are held against the references. Rows that training held out tell most."
      problem={problem}
      known={FIELDS}
      isBusy={isBusy}
      isIncomplete={isMistaken(wish) || Boolean(lack)}
      onSubmit={start}
    >
      <WishFields source={source} wish={wish} onChange={change} splits={splits} problem={problem} />
      <ControlChoice chosen={wish.controls} onChange={(controls) => change({ controls })} />
      <RarerFields wish={wish} onChange={change} problem={problem} />
    </AfterForm>
  );
}

function isMistaken(wish: Wish): boolean {
  return (
    Boolean(mistakeIn(wish.rows, 0, MOST_ROWS) ?? mistakeIn(wish.tokens, 1, MOST_TOKENS)) || isRarelyMistaken(wish)
  );
}

function isRarelyMistaken({ temperature, seed, priority }: Wish): boolean {
  return Boolean(
    mistakeIn(temperature, 0, MOST_TEMPERATURE, false) ??
    mistakeIn(seed, 0, MOST_SEED) ??
    mistakeIn(priority, LEAST_PRIORITY, MOST_PRIORITY),
  );
}

interface WishProps {
  source: TrainingJob;
  wish: Wish;
  onChange: (part: Partial<Wish>) => void;
  splits: readonly Split[] | undefined;
  problem: Problem | undefined;
}

function WishFields({ source, wish, onChange, splits, problem }: WishProps) {
  return (
    <div className="grid gap-x-4 gap-y-5 sm:grid-cols-2 lg:grid-cols-3">
      <DatasetChoice
        source={source}
        value={wish.datasetId}
        onChange={(datasetId) => onChange({ datasetId, split: "" })}
        problem={problem?.fields.dataset_id}
      />
      <SplitChoice
        splits={splits}
        isTrainedOn={!wish.datasetId}
        value={wish.split}
        onChange={(split) => onChange({ split })}
        hint={lackOfRows(splits, wish.split)}
        problem={problem?.fields["parameters.split"]}
      />
      <NumberField
        label="Rows"
        hint="Some of them, chosen at random, are quicker."
        byDefault="all"
        least={0}
        most={MOST_ROWS}
        value={wish.rows}
        onChange={(rows) => onChange({ rows })}
        problem={problem?.fields["parameters.max_rows"]}
      />
      <AnswerLengthField
        most={MOST_TOKENS}
        value={wish.tokens}
        onChange={(tokens) => onChange({ tokens })}
        problem={problem?.fields["parameters.max_new_tokens"]}
      />
      <Field
        label="Name"
        maxLength={100}
        placeholder={nameAfter(source, "evaluation")}
        value={wish.name}
        onChange={(event) => onChange({ name: event.target.value })}
        problem={problem?.fields.name}
      />
    </div>
  );
}

function RarerFields({ wish, onChange, problem }: Pick<WishProps, "wish" | "onChange" | "problem">) {
  const fields = problem?.fields ?? {};
  const told = ["parameters.temperature", "parameters.seed", "priority", "device_class"].some((name) => fields[name]);
  return (
    <MoreOptions isMistaken={told || isRarelyMistaken(wish)}>
      <TemperatureField
        value={wish.temperature}
        onChange={(temperature) => onChange({ temperature })}
        problem={fields["parameters.temperature"]}
      />
      <NumberField
        label="Seed"
        hint="Of all that is random: which rows, how they are shuffled, tokens drawn, intervals."
        byDefault="0"
        least={0}
        most={MOST_SEED}
        value={wish.seed}
        onChange={(seed) => onChange({ seed })}
        problem={fields["parameters.seed"]}
      />
      <PriorityField value={wish.priority} onChange={(priority) => onChange({ priority })} problem={fields.priority} />
      <DeviceClassField
        value={wish.deviceClass}
        onChange={(deviceClass) => onChange({ deviceClass })}
        problem={fields.device_class}
      />
    </MoreOptions>
  );
}

function requestOf(source: TrainingJob, wish: Wish) {
  const { name, datasetId, split, rows, tokens, temperature, seed, controls } = wish;
  return {
    jobId: source.id,
    datasetId,
    name: name.trim() || nameAfter(source, "evaluation"),
    parameters: {
      split,
      ...numberAs("maxRows", rows),
      ...numberAs("maxNewTokens", tokens),
      ...numberAs("temperature", temperature),
      ...numberAs("seed", seed),
      controls: controls.length === ALL_CONTROLS.length ? [] : [...controls],
      withoutControls: controls.length === 0,
    },
    ...numberAs("priority", wish.priority),
    deviceClass: deviceClassOf(wish.deviceClass),
  };
}

/** The splits of a dataset; nothing as long as they are not known, or where they cannot be told. */
function useSplits(datasetId: string) {
  return useQuery({
    queryKey: ["splits", datasetId],
    queryFn: async ({ signal }) =>
      (await samples.getDatasetStatistics({ datasetId }, { signal })).statistics?.splits ?? [],
    retry: false,
  }).data;
}

function ControlChoice({
  chosen,
  onChange,
}: {
  chosen: readonly EvaluationControl[];
  onChange: (chosen: readonly EvaluationControl[]) => void;
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
  problem: string | undefined;
}

function DatasetChoice({ source, value, onChange, problem }: ChoiceProps & { source: TrainingJob }) {
  const list = useQuery({
    queryKey: ["datasets", "ready"],
    queryFn: async ({ signal }) =>
      (await datasets.listDatasets({ pageSize: 1000, filter: "state = READY" }, { signal })).datasets,
  });
  const others = list.data?.filter((one) => one.id !== source.datasetId) ?? [];
  return (
    <SelectField label="Dataset" value={value} onChange={onChange} problem={problem && `${problem}.`}>
      <option value="">the one it was trained on</option>
      {others.map((one) => (
        <option key={one.id} value={one.id}>
          {one.version > 1 ? `${one.name}, version ${one.version}` : one.name}
        </option>
      ))}
    </SelectField>
  );
}

interface SplitProps extends ChoiceProps {
  splits: readonly Split[] | undefined;
  /** Whether the adapter was trained on this dataset. */
  isTrainedOn: boolean;
  hint: string | undefined;
}

function SplitChoice({ splits, isTrainedOn, value, onChange, hint, problem }: SplitProps) {
  return (
    <SelectField label="Rows of" value={value} onChange={onChange} hint={hint} problem={problem && `${problem}.`}>
      <option value="">{heldOutWords(splits, isTrainedOn)}</option>
      {splits?.map((one) => (
        <option key={one.name} value={one.name}>
          {shown(one)}
        </option>
      ))}
    </SelectField>
  );
}
