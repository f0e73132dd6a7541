"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useInfiniteQuery } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import Link from "next/link";
import { usePathname, useRouter, useSearchParams } from "next/navigation";
import { JobState, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { ago, measured } from "@/lib/format";
import { kindOf, nameOf as titleOf, wordsOf } from "@/lib/jobs/kinds";
import { isFinal } from "@/lib/jobs/story";
import { PagedList } from "../paged_list";
import { Bar, buttonClass, Chip, Empty, INPUT, PageTitle } from "../ui";
import { nameOf, StateChip } from "./state";

const SHOWN = [JobState.QUEUED, JobState.RUNNING, JobState.COMPLETED, JobState.STOPPED, JobState.FAILED];
const REFRESH_MS = 4_000;

export function JobList() {
  const state = useSearchParams().get("state") ?? "";
  const filter = /^[A-Z]+$/.test(state) ? `state = ${state}` : "";
  const list = useInfiniteQuery({
    queryKey: ["jobs", filter],
    queryFn: ({ pageParam, signal }) =>
      training.listTrainingJobs({ pageSize: 50, pageToken: pageParam, filter }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    // A list of what is over stays as it is.
    refetchInterval: (query) =>
      query.state.data?.pages.some((page) => page.jobs.some((job) => !isFinal(job.state))) ? REFRESH_MS : false,
  });
  const found = list.data?.pages.flatMap((page) => page.jobs) ?? [];
  return (
    <>
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
      {(found.length > 0 || filter) && <StateFilter state={state} />}
      <PagedList
        list={list}
        what="jobs"
        items={found}
        row={Row}
        empty={
          <Empty title={filter ? "No job is in this state" : "No job yet"}>
            {!filter && <p>With a model and a dataset that are ready, a first job takes a name and a click.</p>}
          </Empty>
        }
      />
    </>
  );
}

/** The address holds the view, so that it can be kept and shared. */
function StateFilter({ state }: { state: string }) {
  const router = useRouter();
  const path = usePathname();
  return (
    <div className="mb-4 w-48">
      <label htmlFor="state" className="mb-1 block text-sm font-medium">
        State
      </label>
      <select
        id="state"
        className={INPUT}
        value={state}
        onChange={(event) => router.replace(event.target.value ? `${path}?state=${event.target.value}` : path)}
      >
        <option value="">all</option>
        {SHOWN.map((one) => (
          <option key={one} value={JobState[one]}>
            {nameOf(one)}
          </option>
        ))}
      </select>
    </div>
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
        <div className="min-w-0 flex-1 basis-60">
          <Link href={`/jobs/view?id=${job.id}`} className="font-medium break-words after:absolute after:inset-0">
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
