// One queue for each dataset or model, for as long as the page lives: going to another view stops nothing.
import { session, uploadBatches, uploads } from "@/lib/clients";
import { inBatches } from "@/lib/upload/batch";
import { hashInWorkers } from "@/lib/upload/hash";
import { Ledger } from "@/lib/upload/ledger";
import { putPart } from "@/lib/upload/put";
import { UploadQueue } from "@/lib/upload/queue";

const queues = new Map<string, UploadQueue>();
let shared: { hash: ReturnType<typeof hashInWorkers>; ledger: Ledger } | undefined;

export function tools() {
  return (shared ??= { hash: hashInWorkers(), ledger: new Ledger() });
}

/** Asks before the page is left while anything is on its way, from whatever view; not when somebody logs out. */
function warn(event: BeforeUnloadEvent): void {
  const isBusy = [...queues.values()].some((queue) => queue.snapshot().totals.isBusy);
  if (isBusy && session.state.kind === "in") event.preventDefault();
}

export function queueFor(parentId: string): UploadQueue {
  let queue = queues.get(parentId);
  if (!queue) {
    queue = new UploadQueue(parentId, { uploads: inBatches(uploads, uploadBatches), put: putPart, ...tools() });
    if (queues.size === 0) addEventListener("beforeunload", warn);
    queues.set(parentId, queue);
  }
  return queue;
}
