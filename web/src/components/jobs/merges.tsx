"use client";

import { AlertTriangle } from "lucide-react";
import { useState } from "react";
import { MergeWeights } from "@/gen/reeltune/scheduler/v1/merge_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { useAttempt } from "@/lib/attempt";
import { postTraining } from "@/lib/jobs/after_training";
import { mistakeIn, numberAs } from "@/lib/jobs/fields";
import { nameAfter } from "@/lib/jobs/kinds";
import { WEIGHTS } from "@/lib/jobs/merge";
import { useRequestId } from "@/lib/request_id";
import { NumberField } from "../number_field";
import { cx, Empty, Field } from "../ui";
import { Followers, type OnStarted } from "./followers";
import { AfterForm } from "./form";
import { MergeResult } from "./merge_result";
import { DeviceClassField, deviceClassOf, LEAST_PRIORITY, MoreOptions, MOST_PRIORITY, PriorityField } from "./options";

/** The merges of a training's adapter, and how to start one. */
export function Merges({ job }: { job: TrainingJob }) {
  if (job.parameters?.lora?.temporalGroups.length)
    return (
      <Empty title="This adapter cannot be merged">
        It mixes tokens along time (lora.temporal_groups), which no weight matrix can hold. Use it beside its base
        model, as “Try it” does.
      </Empty>
    );
  return <Followers source={job} kind="merge" form={MergeForm} result={MergeResult} />;
}

const FIELDS = ["name", "parameters.check_rows", "priority", "device_class"];
/** As the contract bounds them. */
const MOST_ROWS = 1000;

function MergeForm({ source, onStarted }: { source: TrainingJob; onStarted: OnStarted }) {
  const [weights, setWeights] = useState<MergeWeights>(MergeWeights.DEQUANTIZED);
  const [wish, setWish] = useState({ name: "", rows: "", priority: "", deviceClass: "" });
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const isRarelyMistaken = Boolean(mistakeIn(wish.priority, LEAST_PRIORITY, MOST_PRIORITY));
  const isMistaken = isRarelyMistaken || Boolean(mistakeIn(wish.rows, 1, MOST_ROWS));
  const start = () =>
    void attempt(async () => {
      const { job } = await postTraining.mergeTrainingJob({
        jobId: source.id,
        name: wish.name.trim() || nameAfter(source, "merge"),
        parameters: { weights, ...numberAs("checkRows", wish.rows) },
        ...numberAs("priority", wish.priority),
        deviceClass: deviceClassOf(wish.deviceClass),
        requestId: requestId.for([source.id, wish, weights]),
      });
      requestId.done();
      onStarted(job);
    });
  return (
    <AfterForm
      kind="merge"
      verb="Merge"
      about="Makes one model of the base model and this adapter: in bf16, as transformers loads it by itself. It is loaded again and held against base and adapter before it is yours."
      problem={problem}
      known={FIELDS}
      isBusy={isBusy}
      isIncomplete={isMistaken}
      onSubmit={start}
    >
      <WeightsChoice chosen={weights} onChange={setWeights} />
      <div className="grid gap-x-4 gap-y-5 sm:grid-cols-2 lg:grid-cols-3">
        <NumberField
          label="Rows to check on"
          hint="Held-out ones where there are any."
          byDefault="8"
          least={1}
          most={MOST_ROWS}
          value={wish.rows}
          onChange={(rows) => setWish({ ...wish, rows })}
          problem={problem?.fields["parameters.check_rows"]}
        />
        <Field
          label="Name"
          maxLength={100}
          placeholder={nameAfter(source, "merge")}
          value={wish.name}
          onChange={(event) => setWish({ ...wish, name: event.target.value })}
          problem={problem?.fields.name}
        />
      </div>
      <MoreOptions isMistaken={isRarelyMistaken || Boolean(problem?.fields.priority ?? problem?.fields.device_class)}>
        <PriorityField
          value={wish.priority}
          onChange={(priority) => setWish({ ...wish, priority })}
          problem={problem?.fields.priority}
        />
        <DeviceClassField
          value={wish.deviceClass}
          onChange={(deviceClass) => setWish({ ...wish, deviceClass })}
          problem={problem?.fields.device_class}
        />
      </MoreOptions>
    </AfterForm>
  );
}

function WeightsChoice({ chosen, onChange }: { chosen: MergeWeights; onChange: (chosen: MergeWeights) => void }) {
  return (
    <fieldset>
      <legend className="mb-2 text-sm font-medium">Merge into</legend>
      <div className="grid gap-3 lg:grid-cols-2">
        {WEIGHTS.map(({ weights, label, hint, warning }) => (
          <label
            key={weights}
            className={cx(
              "flex items-start gap-3 rounded-lg border p-4 text-sm",
              weights === chosen ? "border-accent bg-accent-soft" : "border-line-strong hover:bg-raised",
            )}
          >
            <input
              type="radio"
              name="weights"
              className="mt-1 accent-accent"
              checked={weights === chosen}
              onChange={() => onChange(weights)}
            />
            <span>
              <span className="font-medium">{label}</span>
              <span className="block text-ink-soft">{hint}</span>
              {warning && (
                <span className="mt-2 flex items-start gap-2 text-warn">
                  <AlertTriangle aria-hidden className="mt-0.5 size-4 shrink-0" />
                  {warning}
                </span>
              )}
            </span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
