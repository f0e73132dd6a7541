"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import Link from "next/link";
import { usePathname, useRouter, useSearchParams } from "next/navigation";
import { createContext, useContext, useDeferredValue, useState } from "react";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { hasPart } from "@/lib/filter";
import { ago, measured } from "@/lib/format";
import { untilRead } from "@/lib/reachable";
import { MOST_RUNS } from "@/lib/jobs/compare";
import { kindOf, nameOf as titleOf, wordsOf } from "@/lib/jobs/kinds";
import { isFinal } from "@/lib/jobs/story";
import { PagedList } from "../paged_list";
import { Bar, Button, buttonClass, Chip, Empty, Field, INPUT, PageTitle } from "../ui";
import { nameOf, StateChip } from "./state";

const SHOWN = [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED, JobState.STOPPED, JobState.FAILED];
const REFRESH_MS = 4_000;

/** Which jobs are to be compared. */
const Chosen = createContext<{ ids: readonly string[]; choose: (id: string, isChosen: boolean) => void }>({
  ids: [],
  choose: () => undefined,
});

export function JobList() {
  const query = useSearchParams();
  const [state, kind] = [query.get("state") ?? "", query.get("kind") ?? ""];
  const [part, setPart] = useState(query.get("name") ?? "");
  const name = useDeferredValue(part);
  const filter = [
    hasPart("name", name),
    /^[A-Z]+$/.test(state) ? `state = ${state}` : "",
    kind in KINDS ? KINDS[kind]!.filter : "",
  ]
    .filter(Boolean)
    .join(" AND ");
  const list = useInfiniteQuery({
    queryKey: ["jobs", filter],
    placeholderData: keepPreviousData,
    queryFn: ({ pageParam, signal }) =>
      training.listTrainingJobs({ pageSize: 50, pageToken: pageParam, filter }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    // A list of what is over stays as it is; a long one, of which each page is read again, is read more rarely.
    refetchInterval: (query) =>
      untilRead(query) ||
      (query.state.data?.pages.some((page) => page.jobs.some((job) => !isFinal(job.state)))
        ? REFRESH_MS * query.state.data.pages.length
        : false),
  });
  const [ids, setIds] = useState<string[]>([]);
  const choose = (id: string, isChosen: boolean) =>
    setIds((former) => (isChosen ? [...former, id] : former.filter((one) => one !== id)));
  const found = list.data?.pages.flatMap((page) => page.jobs) ?? [];
  return (
    <Chosen value={{ ids, choose }}>
      <PageTitle
        title="Jobs"
        action={
          <Link href="/jobs/new" className={buttonClass("primary")}>
            <Plus aria-hidden className="size-4" />
            New job
          </Link>
        }
      >
        Trainings of yours, and what was done with their adapters, the newest first.
      </PageTitle>
      {(found.length > 0 || filter) && (
        <div className="mb-4 flex flex-wrap gap-4">
          <Field
            label="Find"
            type="search"
            className="w-48"
            maxLength={100}
            placeholder="part of a name"
            value={part}
            onChange={(event) => {
              setPart(event.target.value);
              history.replaceState(null, "", addressWith("name", event.target.value));
            }}
          />
          <Filter
            name="state"
            label="State"
            value={state}
            options={SHOWN.map((one) => [JobState[one], nameOf(one)] as const)}
          />
          <Filter
            name="kind"
            label="Kind"
            value={kind}
            options={Object.entries(KINDS).map(([name, { label }]) => [name, label] as const)}
          />
        </div>
      )}
      <PagedList
        list={list}
        what="jobs"
        items={found}
        row={Row}
        empty={
          <Empty title={filter ? "There is no such job" : "No job yet"}>
            {!filter && <p>With a model and a dataset that are ready, a first job takes a name and a click.</p>}
          </Empty>
        }
      />
      {ids.length > 0 && <CompareBar ids={ids} onClear={() => setIds([])} />}
    </Chosen>
  );
}

const KINDS: Record<string, { label: string; filter: string }> = {
  training: { label: "trainings", filter: 'source_job_id = ""' },
  after: { label: "evaluations and merges", filter: 'source_job_id != ""' },
};

function changedQuery(query: URLSearchParams, name: string, value: string): string {
  const changed = new URLSearchParams(query);
  if (value) changed.set(name, value);
  else changed.delete(name);
  return changed.toString();
}

function addressWith(name: string, value: string): string {
  return `${location.pathname}?${changedQuery(new URLSearchParams(location.search), name, value)}`;
}

/** The address holds the view, so that it can be kept and shared. */
function Filter({
  name,
  label,
  value,
  options,
}: {
  name: string;
  label: string;
  value: string;
  options: (readonly [value: string, shown: string])[];
}) {
  const router = useRouter();
  const path = usePathname();
  const query = useSearchParams();
  const change = (next: string) => {
    const changed = changedQuery(query, name, next);
    router.replace(changed ? `${path}?${changed}` : path);
  };
  return (
    <div className="w-48">
      <label htmlFor={name} className="mb-1 block text-sm font-medium">
        {label}
      </label>
      <select id={name} className={INPUT} value={value} onChange={(event) => change(event.target.value)}>
        <option value="">all</option>
        {options.map(([one, shown]) => (
          <option key={one} value={one}>
            {shown}
          </option>
        ))}
      </select>
    </div>
  );
}

function CompareBar({ ids, onClear }: { ids: readonly string[]; onClear: () => void }) {
  return (
    <div
      role="region"
      aria-label="Comparison"
      className="sticky bottom-4 z-10 mt-4 flex flex-wrap items-center justify-between gap-3 rounded-xl border border-line-strong bg-panel px-5 py-3 shadow-lg"
    >
      <p className="text-sm" aria-live="polite">
        {ids.length === 1
          ? "One job is chosen. Choose another one to compare it with."
          : `${ids.length} jobs are chosen.`}
      </p>
      <div className="flex gap-2">
        <Button look="quiet" onClick={onClear}>
          Clear
        </Button>
        {ids.length > 1 && (
          <Link href={`/jobs/compare?ids=${ids.join(",")}`} className={buttonClass("primary")}>
            Compare
          </Link>
        )}
      </div>
    </div>
  );
}

/** Above the link that covers the row. */
function CompareBox({ job }: { job: TrainingJob }) {
  const { ids, choose } = useContext(Chosen);
  const isChosen = ids.includes(job.id);
  if (kindOf(job) !== "training") return <span aria-hidden className="size-4" />;
  return (
    <input
      type="checkbox"
      aria-label={`Compare ${titleOf(job)}`}
      className="relative z-1 size-4 accent-accent"
      checked={isChosen}
      disabled={!isChosen && ids.length >= MOST_RUNS}
      onChange={(event) => choose(job.id, event.target.checked)}
    />
  );
}

function Row({ item: job }: { item: TrainingJob }) {
  const { progress } = job;
  const isMoving = !isFinal(job.state) && job.state !== JobState.QUEUED;
  const said = [
    progress && progress.step > 0
      ? `${wordsOf(job).step.toLowerCase()} ${progress.step}${progress.totalSteps > 0 ? ` of ${progress.totalSteps}` : ""}`
      : "",
    progress?.loss !== undefined ? `loss ${measured(progress.loss)}` : "",
    job.state === JobState.QUEUED ? (job.queue?.message ?? "") : "",
    job.state === JobState.FAILED ? job.message : "",
  ];
  return (
    <li className="relative px-5 py-4 hover:bg-raised">
      <div className="flex flex-wrap items-center gap-x-6 gap-y-1">
        <CompareBox job={job} />
        <div className="min-w-0 flex-1 basis-52">
          <Link
            href={`/jobs/view?id=${job.id}`}
            dir="auto"
            className="font-medium break-words after:absolute after:inset-0"
          >
            {titleOf(job)}
          </Link>
          <p className="line-clamp-2 text-sm text-ink-soft">{said.filter(Boolean).join(" · ")}</p>
        </div>
        {kindOf(job) !== "training" && <Chip tone="plain">{wordsOf(job).name.toLowerCase()}</Chip>}
        <StateChip job={job} />
        <span className="w-24 text-right text-sm text-ink-soft">
          {job.createTime ? ago(timestampDate(job.createTime)) : ""}
        </span>
      </div>
      {isMoving && (
        <div className="mt-2">
          <Bar label={`Progress of ${titleOf(job)}`} value={progress?.fraction ?? 0} max={1} />
        </div>
      )}
    </li>
  );
}
