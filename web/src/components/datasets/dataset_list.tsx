"use client";

import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { Plus } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { type FormEvent, useRef, useDeferredValue, useState } from "react";
import type { Dataset } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { useAttempt } from "@/lib/attempt";
import { datasets } from "@/lib/clients";
import { hasPart } from "@/lib/filter";
import { ago, bytes, count } from "@/lib/format";
import { useRequestId } from "@/lib/request_id";
import { Dialog } from "../dialog";
import { PagedList } from "../paged_list";
import { Button, Empty, Field, PageTitle, Problem } from "../ui";
import { StateChip } from "./state";

const PAGE = 50;

export function DatasetList() {
  const [search, setSearch] = useState("");
  const filter = hasPart("name", useDeferredValue(search));
  const list = useInfiniteQuery({
    queryKey: ["datasets", filter],
    queryFn: ({ pageParam, signal }) =>
      datasets.listDatasets({ pageSize: PAGE, pageToken: pageParam, filter }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    placeholderData: keepPreviousData,
  });
  const found = list.data?.pages.flatMap((page) => page.datasets) ?? [];
  return (
    <>
      <PageTitle title="Datasets" action={<NewDataset />}>
        Clips, and the rows that say what they show.
      </PageTitle>
      {(found.length > 5 || search) && (
        <Field
          label="Search by name"
          type="search"
          className="mb-4 max-w-xs"
          value={search}
          onChange={(event) => setSearch(event.target.value)}
        />
      )}
      <PagedList
        list={list}
        what="datasets"
        items={found}
        row={Row}
        empty={
          <Empty title={search ? "No dataset has such a name" : "No dataset yet"}>
            {!search && (
              <p>
                Create one, then drop your clips and an annotation file into it. Each clip is decoded and each row
                checked before you train.
              </p>
            )}
          </Empty>
        }
      />
    </>
  );
}

function Row({ item: dataset }: { item: Dataset }) {
  const { counts } = dataset;
  return (
    <li className="relative flex flex-wrap items-center gap-x-6 gap-y-1 px-5 py-4 hover:bg-raised">
      <div className="min-w-0 flex-1 basis-60">
        <Link
          href={`/datasets/view?id=${dataset.id}`}
          dir="auto"
          className="font-medium break-words after:absolute after:inset-0"
        >
          {dataset.name}
        </Link>
        {dataset.version > 1 && <span className="ml-2 text-sm text-ink-soft">version {dataset.version}</span>}
        <p className="text-sm text-ink-soft">
          {count(counts?.clips ?? 0, "clip")} · {count(counts?.rows ?? 0, "row")} · {bytes(counts?.sizeBytes ?? 0)}
        </p>
      </div>
      <StateChip dataset={dataset} />
      <span className="w-24 text-right text-sm text-ink-soft">
        {dataset.updateTime ? ago(timestampDate(dataset.updateTime)) : ""}
      </span>
    </li>
  );
}

function NewDataset() {
  const router = useRouter();
  const dialog = useRef<HTMLDialogElement>(null);
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const create = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    void attempt(async () => {
      const wanted = { name: String(data.get("name")).trim(), description: String(data.get("description")) };
      const { dataset } = await datasets.createDataset({ ...wanted, requestId: requestId.for(wanted) });
      requestId.done();
      if (dataset) router.push(`/datasets/view?id=${dataset.id}`);
    });
  };
  return (
    <>
      <Button look="primary" onClick={() => dialog.current?.showModal()}>
        <Plus aria-hidden className="size-4" />
        New dataset
      </Button>
      <Dialog ref={dialog} title="New dataset">
        <form onSubmit={create} className="space-y-4">
          <Field label="Name" name="name" required maxLength={100} problem={problem?.fields.name} />
          <Field
            label="What it is for (optional)"
            name="description"
            maxLength={2000}
            problem={problem?.fields.description}
          />
          {problem && Object.keys(problem.fields).length === 0 && <Problem>{problem.message}</Problem>}
          <div className="flex justify-end gap-2">
            <Button look="quiet" onClick={() => dialog.current?.close()}>
              Cancel
            </Button>
            <Button look="primary" type="submit" isBusy={isBusy}>
              Create
            </Button>
          </div>
        </form>
      </Dialog>
    </>
  );
}
