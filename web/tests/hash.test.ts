import { expect, test, vi } from "vitest";
import { hashInWorkers } from "@/lib/upload/hash";
import type { Asked, Told } from "@/lib/upload/hash_worker";

/** Dies of files named "deadly", and tells the name of others as their digest. */
class FakeWorker {
  static made: FakeWorker[] = [];
  onmessage?: (event: { data: Told }) => void;
  onerror?: (event: { message: string }) => void;
  isOver = false;

  constructor() {
    FakeWorker.made.push(this);
  }

  postMessage({ id, file }: Asked): void {
    const { name } = file as File;
    queueMicrotask(() => {
      if (this.isOver) return;
      if (name === "deadly") this.onerror?.({ message: "out of memory" });
      else this.onmessage?.({ data: { id, sha256: name } });
    });
  }

  terminate(): void {
    this.isOver = true;
  }
}

test("a worker that died is replaced, and takes no other worker's file with it", async () => {
  vi.stubGlobal("Worker", FakeWorker);
  const hash = hashInWorkers();
  const ask = (name: string) => hash(new File([], name), () => undefined);
  const [dead, other] = await Promise.allSettled([ask("deadly"), ask("a")]);

  expect(dead).toMatchObject({ status: "rejected", reason: { message: "out of memory" } });
  expect(other).toMatchObject({ status: "fulfilled", value: "a" });
  expect(await Promise.all(["b", "c", "d"].map(ask))).toEqual(["b", "c", "d"]);
  expect(FakeWorker.made.filter((worker) => !worker.isOver)).toHaveLength(2);
});
