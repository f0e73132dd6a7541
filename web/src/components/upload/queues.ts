// One queue for each dataset or model, for as long as the page lives: going to another view stops nothing.
import { uploads } from "@/lib/clients";
import { hashInWorkers } from "@/lib/upload/hash";
import { Ledger } from "@/lib/upload/ledger";
import { putPart } from "@/lib/upload/put";
import { UploadQueue } from "@/lib/upload/queue";

const queues = new Map<string, UploadQueue>();
let shared: { hash: ReturnType<typeof hashInWorkers>; ledger: Ledger } | undefined;

export function tools() {
  return (shared ??= { hash: hashInWorkers(), ledger: new Ledger() });
}

export function queueFor(parentId: string): UploadQueue {
  let queue = queues.get(parentId);
  if (!queue) {
    queue = new UploadQueue(parentId, { uploads, put: putPart, ...tools() });
    queues.set(parentId, queue);
  }
  return queue;
}
