"use client";

import { useInfiniteQuery } from "@tanstack/react-query";
import { useState } from "react";
import { type Dataset, type DatasetIssue, DatasetState, IssueSeverity } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { datasets, versions } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { count, sentence } from "@/lib/format";
import { Button, Chip, Loading, Panel, Problem } from "../ui";

const PAGE = 100;

export function Issues({ dataset, onChange }: { dataset: Dataset; onChange: (dataset: Dataset | undefined) => void }) {
  const list = useInfiniteQuery({
    queryKey: ["of-dataset", dataset.id, "issues", dataset.etag],
    queryFn: ({ pageParam, signal }) =>
      datasets.listDatasetIssues({ datasetId: dataset.id, pageSize: PAGE, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
  });
  const issues = list.data?.pages.flatMap((page) => page.issues) ?? [];
  const isError = dataset.state === DatasetState.ERROR;
  const errors = Number(dataset.counts?.errors ?? 0);
  const warnings = Number(dataset.counts?.warnings ?? 0);
  const found = [errors ? count(errors, "error") : "", warnings ? count(warnings, "warning") : ""]
    .filter(Boolean)
    .join(" and ");
  return (
    <Panel title={`The check found ${found}`} action={isError && <Quarantine dataset={dataset} onChange={onChange} />}>
      {isError && (
        <p className="mb-4 text-sm text-ink-soft">
          Mend the files and send them again, or leave out what has an error and go on with the rest.
        </p>
      )}
      {list.isPending && <Loading what="Loading what was found …" />}
      {list.isError && <Problem>{explain(list.error).message}</Problem>}
      <ul className="divide-y divide-line">
        {issues.map((issue, index) => (
          <Issue key={`${issue.file}:${issue.row}:${issue.reason}:${index}`} issue={issue} />
        ))}
      </ul>
      {list.hasNextPage && (
        <Button className="mt-4" isBusy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
          Show more
        </Button>
      )}
    </Panel>
  );
}

/** `annotations.csv · row 3 · answer`. */
export function placeOf(issue: Pick<DatasetIssue, "file" | "row" | "field">): string {
  return (
    [issue.file, issue.row > 0 ? `row ${issue.row}` : "", issue.field].filter(Boolean).join(" · ") ||
    "the dataset as a whole"
  );
}

function Issue({ issue }: { issue: DatasetIssue }) {
  const isError = issue.severity === IssueSeverity.ERROR;
  return (
    <li className="grid gap-x-4 gap-y-1 py-3 text-sm sm:grid-cols-[5.5rem_1fr]">
      <span>
        <Chip tone={isError ? "bad" : "warn"}>{isError ? "error" : "warning"}</Chip>
      </span>
      <div className="min-w-0">
        <p className="font-mono text-[0.8125rem] break-all text-ink-soft">{placeOf(issue)}</p>
        <p className="font-medium break-words">{sentence(issue.message)}</p>
        {issue.remedy && <p className="break-words text-ink-soft">{sentence(issue.remedy)}</p>}
        <p className="sr-only">{issue.reason}</p>
      </div>
    </li>
  );
}

function Quarantine({ dataset, onChange }: { dataset: Dataset; onChange: (dataset: Dataset | undefined) => void }) {
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  async function leaveOut() {
    setBusy(true);
    setProblem("");
    try {
      onChange((await versions.quarantineDataset({ datasetId: dataset.id })).dataset);
    } catch (error) {
      setProblem(explain(error).message);
      setBusy(false);
    }
  }
  return (
    <div className="flex flex-col items-end gap-2">
      <Button isBusy={isBusy} onClick={() => void leaveOut()}>
        Leave out what has errors and go on
      </Button>
      {problem && <Problem>{problem}</Problem>}
    </div>
  );
}
