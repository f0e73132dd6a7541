"use client";

import { FolderOpen, UploadCloud } from "lucide-react";
import { type DragEvent, type ReactNode, useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { explain } from "@/lib/errors";
import { count } from "@/lib/format";
import { fromDrop, fromHandles, fromInput } from "@/lib/upload/choose";
import type { Totals, UploadQueue } from "@/lib/upload/queue";
import type { Chosen, Remembered } from "@/lib/upload/types";
import { Button, cx, Panel, Problem } from "../ui";
import { queueFor, tools } from "./queues";
import { TransferList } from "./transfer_list";

interface Props {
  parentId: string;
  /** What may be dropped, in words. */
  accept: string;
  /** Called when files have arrived. */
  onArrived: () => void;
  /** What to do next, once everything has arrived. */
  children?: ReactNode;
}

export function Upload({ parentId, accept, onArrived, children }: Props) {
  const queue = queueFor(parentId);
  const { transfers, totals, note } = useSyncExternalStore(queue.subscribe, queue.snapshot, queue.snapshot);
  const [problem, setProblem] = useState("");
  const add = useCallback(
    (files: Promise<Chosen[]> | Chosen[]) => {
      setProblem("");
      Promise.resolve(files)
        .then((found) => (found.length ? queue.add(found) : setProblem("There was no file in it that can be sent.")))
        .catch((error: unknown) => setProblem(explain(error).message));
    },
    [queue],
  );
  useArrivals(totals, onArrived);
  return (
    <Panel title="Add files">
      <Interrupted parentId={parentId} totals={totals} add={add} queue={queue} />
      <DropZone accept={accept} add={add} />
      {problem && (
        <div className="mt-3">
          <Problem>{problem}</Problem>
        </div>
      )}
      {note && <p className="mt-3 text-sm text-warn">{note}</p>}
      <TransferList transfers={transfers} totals={totals} onRetry={() => queue.retry()} onClear={() => queue.clear()} />
      {children && (
        <div className="mt-5 flex flex-wrap items-center gap-3">
          {totals.isBusy ? (
            <p className="text-sm text-ink-soft">The check can begin once everything has arrived.</p>
          ) : (
            children
          )}
        </div>
      )}
    </Panel>
  );
}

function useArrivals(totals: Totals, onArrived: () => void): void {
  const told = useRef(0);
  const latest = useRef(onArrived);
  useEffect(() => {
    latest.current = onArrived;
  });
  useEffect(() => {
    // After each file of a few, and at the end of many.
    if (totals.done === told.current || (totals.isBusy && totals.done % 10 !== 0 && totals.files > 10)) return;
    told.current = totals.done;
    latest.current();
  }, [totals]);
}

function DropZone({ accept, add }: { accept: string; add: (files: Promise<Chosen[]> | Chosen[]) => void }) {
  const files = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const [isOver, setOver] = useState(false);
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    add(fromDrop(event.dataTransfer));
  };
  const chosen = (input: HTMLInputElement) => {
    add(fromInput(input.files ?? []));
    input.value = ""; // the same files may be chosen again
  };
  return (
    <div
      data-testid="drop-zone"
      onDragOver={(event) => (event.preventDefault(), setOver(true))}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
      className={cx(
        "rounded-xl border-2 border-dashed px-6 py-8 text-center transition-colors",
        isOver ? "border-accent bg-accent-soft" : "border-line-strong",
      )}
    >
      <UploadCloud aria-hidden className="mx-auto size-8 text-ink-soft" />
      <p className="mt-2 font-medium">Drop files or a folder here</p>
      <p className="mt-1 text-sm text-ink-soft">{accept}</p>
      <div className="mt-4 flex flex-wrap justify-center gap-2">
        <Button onClick={() => files.current?.click()}>Choose files</Button>
        <Button onClick={() => folder.current?.click()}>
          <FolderOpen aria-hidden className="size-4" />
          Choose a folder
        </Button>
      </div>
      <input
        ref={files}
        type="file"
        multiple
        hidden
        aria-label="Files"
        onChange={(event) => chosen(event.currentTarget)}
      />
      <input
        ref={folder}
        type="file"
        multiple
        hidden
        aria-label="Folder"
        onChange={(event) => chosen(event.currentTarget)}
        {...{ webkitdirectory: "" }}
      />
    </div>
  );
}

/** Tells what an earlier visit did not finish, and goes on with it. */
function Interrupted({
  parentId,
  totals,
  add,
  queue,
}: {
  parentId: string;
  totals: Totals;
  add: (files: Promise<Chosen[]>) => void;
  queue: UploadQueue;
}) {
  const [pending, setPending] = useState<Remembered[]>([]);
  const { ledger } = tools();
  useEffect(() => {
    let isStale = false;
    ledger.pending(parentId).then(
      (found) => isStale || setPending(found),
      () => undefined, // a browser that remembers nothing has nothing to tell; the queue says so
    );
    return () => {
      isStale = true;
    };
    // Not for each file: what this page sends itself is left out below.
  }, [ledger, parentId, totals.isBusy]);
  const here = new Set(queue.snapshot().transfers.map((one) => one.path));
  const left = pending.filter((one) => !here.has(one.path));
  if (left.length === 0) return null;
  const canReopen = left.some((one) => one.handle);
  const forget = async () => {
    await ledger.forget(
      parentId,
      left.map((one) => one.path),
    );
    setPending(await ledger.pending(parentId));
  };
  return (
    <div role="status" className="mb-4 rounded-lg bg-warn-soft px-4 py-3 text-sm text-warn">
      <p className="font-semibold">{count(left.length, "file")} had not arrived when this page was left</p>
      <p>
        {canReopen ? "Go on with them, or choose them again." : "Choose or drop the same files again."} What has arrived
        is not sent again.
      </p>
      <p className="mt-1 font-mono text-xs break-all">
        {left
          .slice(0, 5)
          .map((one) => one.path)
          .join(", ") + (left.length > 5 ? ", …" : "")}
      </p>
      <div className="mt-2 flex gap-2">
        {canReopen && <Button onClick={() => add(fromHandles(left))}>Go on</Button>}
        <Button look="quiet" className="text-warn" onClick={() => void forget()}>
          Forget them
        </Button>
      </div>
    </div>
  );
}
