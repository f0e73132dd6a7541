"use client";

import { fromJson, toJsonString } from "@bufbuild/protobuf";
import { useQuery } from "@tanstack/react-query";
import Link from "next/link";
import { useRouter, useSearchParams } from "next/navigation";
import { type FormEvent, useEffect, useMemo, useState } from "react";
import { CreateTrainingJobRequestSchema } from "@/gen/reeltune/scheduler/v1/training_service_pb";
import { TrainingParametersSchema } from "@/gen/reeltune/scheduler/v1/training_parameters_pb";
import { useAttempt } from "@/lib/attempt";
import { datasets, models, training } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { DEVICES, devicesOf, FIELDS, fieldOf, mistake, parametersOf, untoldOf } from "@/lib/jobs/fields";
import { Estimate } from "./estimate";
import { PresetChoice, useStart } from "./preset_choice";
import { Untold, useFocusOnMistake } from "./form";
import { Button, Field, Loading, PageTitle, Panel, SelectField } from "../ui";

const DRAFT = "reeltune.job-draft";
type Draft = Record<string, string>;

export function NewJob() {
  const router = useRouter();
  const query = useSearchParams();
  const { draft, change, forget } = useDraft({ model: query.get("model") ?? "", dataset: query.get("dataset") ?? "" });
  const { isBusy, problem, attempt } = useAttempt();
  const start = useStart(draft.preset ?? "");
  const complaints = Object.fromEntries(
    Object.entries(problem?.fields ?? {}).map(([name, text]) => [fieldOf(name), text]),
  );
  const isMistaken = [...FIELDS, DEVICES].some((field) => mistake(field, draft[field.path] ?? ""));
  const create = (event: FormEvent) => {
    event.preventDefault();
    void attempt(async () => {
      const { job } = await training.createTrainingJob(requestOf(draft));
      forget();
      if (job) router.push(`/jobs/view?id=${job.id}`);
    });
  };
  const form = useFocusOnMistake(problem);
  const known = ["name", "modelId", "datasetId", DEVICES.path, ...FIELDS.map((field) => field.path)];
  const untold = problem ? untoldOf({ ...problem, fields: complaints }, known) : [];
  return (
    <form ref={form} onSubmit={create} noValidate>
      <PageTitle title="New job">
        Train an adapter for a model on a dataset. What you leave empty has the value that stands in it.
      </PageTitle>
      <div className="space-y-6">
        <Panel title="What">
          <div className="grid gap-4 sm:grid-cols-3">
            <Field
              label="Name"
              maxLength={100}
              value={draft.name ?? ""}
              onChange={(event) => change("name", event.target.value)}
              problem={complaints.name}
            />
            <ModelChoice
              value={draft.model ?? ""}
              onChange={(value) => change("model", value)}
              problem={complaints.modelId}
            />
            <DatasetChoice
              value={draft.dataset ?? ""}
              onChange={(value) => change("dataset", value)}
              problem={complaints.datasetId}
            />
          </div>
        </Panel>
        <Panel title="How">
          <PresetChoice value={draft.preset ?? ""} onChange={(value) => change("preset", value)} start={start} />
          <div className="grid gap-x-4 gap-y-5 sm:grid-cols-2 lg:grid-cols-3">
            {[...FIELDS, DEVICES].map((field) => (
              <Field
                key={field.path}
                label={field.label}
                hint={field.hint}
                inputMode="decimal"
                placeholder={field === DEVICES ? field.byDefault : start.valueOf(field)}
                value={draft[field.path] ?? ""}
                onChange={(event) => change(field.path, event.target.value)}
                problem={mistake(field, draft[field.path] ?? "") ?? complaints[field.path]}
              />
            ))}
          </div>
        </Panel>
        {!isMistaken && (
          <Estimate
            modelId={draft.model ?? ""}
            datasetId={draft.dataset ?? ""}
            {...devicesOf(draft)}
            parameters={parametersOf(draft)}
          />
        )}
        <Untold title="The job was not accepted" texts={untold} />
        <div className="flex flex-wrap items-center gap-4">
          <Button type="submit" look="primary" isBusy={isBusy} disabled={!draft.model || !draft.dataset || isMistaken}>
            Start the job
          </Button>
          {(!draft.model || !draft.dataset) && (
            <p className="text-sm text-ink-soft">Choose a model and a dataset first.</p>
          )}
        </div>
        {!isMistaken && <AsJson draft={draft} />}
      </div>
    </form>
  );
}

function requestOf(draft: Draft) {
  return {
    name: draft.name ?? "",
    modelId: draft.model ?? "",
    datasetId: draft.dataset ?? "",
    ...devicesOf(draft),
    parameters: fromJson(TrainingParametersSchema, parametersOf(draft)),
    requestId: draft.requestId ?? "",
  };
}

/** What was typed, kept over a reload. */
function useDraft(given: Draft) {
  const [draft, setDraft] = useState<Draft>(given);
  useEffect(() => {
    const kept = JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}") as Draft;
    const chosen = Object.fromEntries(Object.entries(given).filter(([, value]) => value));
    // A name for the wish: a second click, or a retry after a lost answer, makes no second job.
    setDraft({ requestId: crypto.randomUUID(), ...kept, ...chosen });
    // oxlint-disable-next-line react-hooks/exhaustive-deps -- once, when the page opens
  }, []);
  const change = (name: string, value: string) =>
    setDraft((former) => {
      // Another wish, another name: the service refuses one name for two.
      const next = { ...former, [name]: value, requestId: crypto.randomUUID() };
      sessionStorage.setItem(DRAFT, JSON.stringify(next));
      return next;
    });
  return { draft, change, forget: () => sessionStorage.removeItem(DRAFT) };
}

interface ChoiceProps {
  value: string;
  onChange: (value: string) => void;
  problem: string | undefined;
}

function ModelChoice(props: ChoiceProps) {
  const list = useQuery({
    queryKey: ["models", "ready"],
    queryFn: async ({ signal }) =>
      (await models.listModels({ pageSize: 200, filter: "state = READY" }, { signal })).models,
  });
  return (
    <Choice
      {...props}
      label="Model"
      empty="No model is ready yet"
      href="/models"
      list={list}
      names={(one) => one.name}
    />
  );
}

function DatasetChoice(props: ChoiceProps) {
  const list = useQuery({
    queryKey: ["datasets", "ready"],
    queryFn: async ({ signal }) =>
      (await datasets.listDatasets({ pageSize: 200, filter: "state = READY" }, { signal })).datasets,
  });
  return (
    <Choice
      {...props}
      label="Dataset"
      empty="No dataset is ready yet"
      href="/datasets"
      list={list}
      names={(one) => (one.version > 1 ? `${one.name}, version ${one.version}` : one.name)}
    />
  );
}

interface ListProps<Entry> extends ChoiceProps {
  label: string;
  empty: string;
  href: string;
  list: { data?: Entry[] | undefined; isPending: boolean; error: Error | null };
  names: (entry: Entry) => string;
}

function Choice<Entry extends { id: string }>({
  label,
  empty,
  href,
  list,
  names,
  value,
  onChange,
  problem,
}: ListProps<Entry>) {
  if (list.isPending) return <Loading what={`Loading ${label.toLowerCase()}s …`} />;
  const none = list.data?.length === 0 && (
    <>
      {empty}.{" "}
      <Link href={href} className="text-accent underline underline-offset-4">
        Make one
      </Link>
    </>
  );
  return (
    <SelectField
      label={label}
      value={value}
      onChange={onChange}
      hint={none}
      problem={list.error ? explain(list.error).message : problem}
    >
      <option value="">choose …</option>
      {list.data?.map((one) => (
        <option key={one.id} value={one.id}>
          {names(one)}
        </option>
      ))}
    </SelectField>
  );
}

/** The same job for programs. */
function AsJson({ draft }: { draft: Draft }) {
  const text = useMemo(() => {
    const { requestId: _, ...request } = requestOf(draft);
    return toJsonString(
      CreateTrainingJobRequestSchema,
      fromJson(CreateTrainingJobRequestSchema, { ...request, parameters: parametersOf(draft) }),
      { prettySpaces: 2 },
    );
  }, [draft]);
  return (
    <details className="text-sm">
      <summary className="font-medium">The same job by HTTP</summary>
      <pre tabIndex={0} className="mt-2 overflow-x-auto rounded-lg border border-line bg-raised p-4 font-mono text-xs">
        {`POST /v1/trainings\n${text}`}
      </pre>
    </details>
  );
}
