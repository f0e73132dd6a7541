"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useInfiniteQuery } from "@tanstack/react-query";
import type { CheckpointInfo } from "@/gen/reeltune/scheduler/v1/checkpoint_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { training } from "@/lib/clients";
import { ago, bytes, measured } from "@/lib/format";
import { worthOfCheckpoints, withoutCheckpoint } from "@/lib/jobs/kinds";
import { Table } from "../table";
import { Button, Chip, Empty } from "../ui";
import { Unread } from "../unread";

/** The checkpoints that are kept. `told` changes whenever one is saved. */
export function Checkpoints({ job, told }: { job: TrainingJob; told: number }) {
  const list = useInfiniteQuery({
    queryKey: ["checkpoints", job.id, told, job.state],
    queryFn: ({ pageParam, signal }) =>
      training.listCheckpoints({ jobId: job.id, pageSize: 100, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    placeholderData: (former) => former,
  });
  if (!list.isSuccess) return <Unread of={list} what="Looking for checkpoints …" />;
  const found = list.data.pages.flatMap((page) => page.checkpoints);
  if (found.length === 0) return <Empty title="No checkpoint is kept">{withoutCheckpoint(job.state)}</Empty>;
  return (
    <div className="space-y-4">
      <p className="max-w-prose text-sm text-ink-soft">{worthOfCheckpoints(job.state)}</p>
      <Table
        label="Checkpoints"
        head={["Step", "Loss on held-out rows", "Size", "Attempt", "Saved"]}
        rows={found.map(rowOf)}
      />
      {list.hasNextPage && (
        <Button isBusy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
          Show more
        </Button>
      )}
    </div>
  );
}

function rowOf(one: CheckpointInfo) {
  return {
    key: `${one.attempt} ${one.step}`,
    cells: [
      <span key="step" className="flex items-center gap-2">
        {String(one.step)}
        {one.isNewest && <Chip tone="accent">newest</Chip>}
      </span>,
      one.evalLoss === undefined ? "–" : measured(one.evalLoss),
      bytes(one.sizeBytes),
      String(one.attempt),
      one.createTime ? ago(timestampDate(one.createTime)) : "",
    ],
  };
}
