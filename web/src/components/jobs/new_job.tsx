"use client";

import { fromJson, type JsonObject, toJsonString } from "@bufbuild/protobuf";
import { useQuery } from "@tanstack/react-query";
import Link from "next/link";
import { useRouter, useSearchParams } from "next/navigation";
import { type FormEvent, useMemo } from "react";
import { CreateTrainingJobRequestSchema } from "@/gen/reeltune/scheduler/v1/training_service_pb";
import { useAttempt } from "@/lib/attempt";
import { datasets, models, training } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { carriedBy, type Draft, requestOf } from "@/lib/jobs/draft";
import { FIELDS, fieldOf, type JobField, mistake, REQUEST_FIELDS, untoldOf } from "@/lib/jobs/fields";
import { CarriedValues, isWithin } from "./carried";
import { Estimate } from "./estimate";
import { PresetChoice, useStart } from "./preset_choice";
import { DeviceClassField } from "./options";
import { Untold, useFocusOnMistake } from "./form";
import { useDraft } from "./use_draft";
import { Unread } from "../unread";
import { Button, Field, Loading, PageTitle, Panel, SelectField } from "../ui";

const ALL_FIELDS = [...FIELDS, ...REQUEST_FIELDS];

export function NewJob() {
  const router = useRouter();
  const query = useSearchParams();
  const given = (name: string) => query.get(name) ?? "";
  const { draft, likeName, source, change, clear, forget } = useDraft({
    model: given("model"),
    dataset: given("dataset"),
    like: given("like"),
  });
  const { isBusy, problem, attempt } = useAttempt();
  const start = useStart(draft.preset ?? "");
  const complaints = Object.fromEntries(
    Object.entries(problem?.fields ?? {}).map(([name, text]) => [fieldOf(name), text]),
  );
  const isMistaken = ALL_FIELDS.some((field) => mistake(field, draft[field.path] ?? ""));
  const create = (event: FormEvent) => {
    event.preventDefault();
    void attempt(async () => {
      const { job } = await training.createTrainingJob(fromJson(CreateTrainingJobRequestSchema, requestOf(draft)));
      forget();
      if (job) router.push(`/jobs/view?id=${job.id}`);
    });
  };
  const form = useFocusOnMistake(problem);
  const untold = problem ? untoldOf({ ...problem, fields: complaints }, knownOf(draft, Object.keys(complaints))) : [];
  if (source.isError) return <Unread of={source} what="" />;
  if (source.isLoading) return <Loading what="Loading the job that it is to be like …" />;
  return (
    <form ref={form} onSubmit={create} noValidate>
      <PageTitle title="New job">
        Train an adapter for a model on a dataset. What you leave empty has the value that stands in it.
      </PageTitle>
      <div className="space-y-6">
        {likeName && (
          <div className="flex flex-wrap items-center justify-between gap-2 rounded-lg bg-accent-soft px-4 py-2 text-sm">
            <p className="min-w-0 break-words">
              {"Everything that was asked of "}
              <bdi className="font-medium">{likeName}</bdi>
              {" is filled in, but for the name."}
            </p>
            <Button look="quiet" onClick={clear}>
              Begin with the defaults instead
            </Button>
          </div>
        )}
        <Panel title="What">
          <div className="grid gap-4 sm:grid-cols-3">
            <Field
              label="Name"
              maxLength={100}
              value={draft.name ?? ""}
              onChange={(event) => change({ name: event.target.value })}
              problem={complaints.name}
            />
            <ModelChoice
              value={draft.model ?? ""}
              onChange={(model) => change({ model })}
              problem={complaints.modelId}
            />
            <DatasetChoice
              value={draft.dataset ?? ""}
              onChange={(dataset) => change({ dataset })}
              problem={complaints.datasetId}
            />
          </div>
        </Panel>
        <Panel title="How">
          <PresetChoice
            value={draft.preset ?? ""}
            onChange={(preset) => change({ preset })}
            start={start}
            problem={complaints.preset}
          />
          <div className="grid gap-x-4 gap-y-5 sm:grid-cols-2 lg:grid-cols-3">
            {ALL_FIELDS.map((field) => (
              <Field
                key={field.path}
                label={field.label}
                hint={field.hint}
                inputMode="decimal"
                placeholder={placeholder(field, start.valueOf)}
                value={draft[field.path] ?? ""}
                onChange={(event) => change({ [field.path]: event.target.value })}
                problem={mistake(field, draft[field.path] ?? "") ?? complaints[field.path]}
              />
            ))}
            <DeviceClassField
              value={draft.deviceClass ?? ""}
              onChange={(deviceClass) => change({ deviceClass })}
              problem={complaints.deviceClass}
            />
          </div>
          <CarriedValues
            draft={draft}
            byDefault={({ path }) => start.leftOut(path)}
            complaints={complaints}
            onChange={change}
          />
        </Panel>
        {!isMistaken && <Cost draft={draft} />}
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

function placeholder(field: JobField, valueOf: (field: JobField) => string): string {
  return REQUEST_FIELDS.includes(field) ? field.byDefault : valueOf(field);
}

/** The fields of complaints that the form tells at their own places. */
function knownOf(draft: Draft, complaints: readonly string[]): string[] {
  const carried = carriedBy(draft).map((one) => one.path.replace(/^parameters\./, ""));
  const within = complaints.filter((name) => carried.some((path) => isWithin(name, path)));
  return ["name", "modelId", "datasetId", "deviceClass", "preset", ...ALL_FIELDS.map((field) => field.path), ...within];
}

function Cost({ draft }: { draft: Draft }) {
  const { modelId = "", datasetId = "", deviceCount, parameters = {} } = requestOf(draft);
  return (
    <Estimate
      modelId={modelId as string}
      datasetId={datasetId as string}
      {...(typeof deviceCount === "number" ? { deviceCount } : {})}
      parameters={parameters as JsonObject}
    />
  );
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
      (await models.listModels({ pageSize: 1000, filter: "state = READY" }, { signal })).models,
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
      (await datasets.listDatasets({ pageSize: 1000, filter: "state = READY" }, { signal })).datasets,
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
      {value && !list.data?.some((one) => one.id === value) && <option value={value}>{value}</option>}
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
    return toJsonString(CreateTrainingJobRequestSchema, fromJson(CreateTrainingJobRequestSchema, request), {
      prettySpaces: 2,
    });
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
