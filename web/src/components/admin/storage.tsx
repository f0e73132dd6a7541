"use client";

import { useInfiniteQuery } from "@tanstack/react-query";
import { usage } from "@/lib/admin";
import { bytes, count } from "@/lib/format";
import { Table } from "../table";
import { Button } from "../ui";
import { Unread } from "../unread";
import { useNames } from "./limits";

/** Who has stored how much. */
export function Storage() {
  const names = useNames();
  const list = useInfiniteQuery({
    queryKey: ["admin-usage"],
    queryFn: ({ pageParam, signal }) => usage.listUsage({ pageSize: 200, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
  });
  const found = list.data?.pages.flatMap((page) => page.usage) ?? [];
  return (
    <>
      <h2 className="sr-only">Storage</h2>
      <p className="mb-4 max-w-prose text-sm text-ink-soft">
        Each byte counts once, however many datasets, models and versions share it. Deleted ones count until their files
        go.
      </p>
      {!list.isSuccess && <Unread of={list} what="Loading what is stored …" />}
      {list.isSuccess && found.length === 0 && <p className="text-sm">Nobody has stored anything.</p>}
      {found.length > 0 && (
        <Table
          label="Storage by user"
          head={["User", "Stored", "On its way", "Files", "Datasets", "Models"]}
          rows={found.map((one) => ({
            key: one.userId,
            cells: [
              <span key="name" className="break-all">
                {names.get(one.userId) ?? one.userId}
              </span>,
              bytes(one.storedBytes),
              bytes(one.pendingBytes),
              count(one.storedFiles, "file"),
              `${Number(one.datasets)} (${bytes(one.datasetBytes)})`,
              `${Number(one.models)} (${bytes(one.modelBytes)})`,
            ],
          }))}
        />
      )}
      {list.hasNextPage && (
        <Button className="mt-4" isBusy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
          Show more
        </Button>
      )}
    </>
  );
}
