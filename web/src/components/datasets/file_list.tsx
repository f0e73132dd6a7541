"use client";

import { useInfiniteQuery } from "@tanstack/react-query";
import { Trash2 } from "lucide-react";
import { useState } from "react";
import { uploads } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { bytes, count } from "@/lib/format";
import { Button, Problem } from "../ui";
import { Unread } from "../unread";

const PAGE = 200;

/** What is in place, for as long as it may change. */
export function FileList({ parentId, files, onChange }: { parentId: string; files?: number; onChange: () => void }) {
  const [isOpen, setOpen] = useState(false);
  const [problem, setProblem] = useState("");
  const list = useInfiniteQuery({
    queryKey: ["files", parentId, files ?? 0],
    queryFn: ({ pageParam, signal }) =>
      uploads.listFiles({ parentId, pageSize: PAGE, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    enabled: isOpen,
    placeholderData: (former) => former,
  });
  async function remove(path: string) {
    setProblem("");
    try {
      await uploads.deleteFile({ parentId, path });
      onChange();
    } catch (error) {
      setProblem(explain(error).message);
    }
  }
  if (files === 0) return null;
  return (
    <details
      className="rounded-xl border border-line bg-panel p-5"
      onToggle={(event) => setOpen(event.currentTarget.open)}
    >
      <summary className="font-semibold">
        {files === undefined ? "Files in place" : `${count(files, "file")} in place`}
      </summary>
      {problem && <Problem>{problem}</Problem>}
      {isOpen && !list.isSuccess && <Unread of={list} what="Loading files …" />}
      <ul className="mt-3 divide-y divide-line text-sm">
        {list.data?.pages
          .flatMap((page) => page.files)
          .map((file) => (
            <li key={file.path} className="flex items-center gap-4 py-1.5">
              <span className="min-w-0 flex-1 font-mono text-[0.8125rem] break-all">{file.path}</span>
              <span className="text-ink-soft tabular-nums">{bytes(file.sizeBytes)}</span>
              <Button
                look="quiet"
                className="px-2"
                aria-label={`Remove ${file.path}`}
                onClick={() => void remove(file.path)}
              >
                <Trash2 aria-hidden className="size-4" />
              </Button>
            </li>
          ))}
      </ul>
      {list.hasNextPage && (
        <Button className="mt-3" isBusy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
          Show more
        </Button>
      )}
    </details>
  );
}
