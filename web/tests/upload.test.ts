import "fake-indexeddb/auto";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { createStore } from "idb-keyval";
import { beforeEach, expect, test, vi } from "vitest";
import { UploadPartSchema } from "@/gen/reeltune/catalog/v1/upload_pb";
import { UploadService } from "@/gen/reeltune/catalog/v1/upload_service_pb";
import { Ledger } from "@/lib/upload/ledger";
import { PartRefused, type Put, putPart, refusalOf, type Target } from "@/lib/upload/put";
import { UploadQueue } from "@/lib/upload/queue";

const PARENT = "ds_01";
const PART = 4;
const text = "0123456789ab"; // three parts

/** A catalog and an object store in a few lines: what counts is which bytes travel. */
class Store {
  parts = new Map<number, string>();
  isStored = false;
  areHeadersAccepted = false;
  headers: Record<string, string> = {};
  puts: number[] = [];
  offers = 0;
  /** What the upload is called that is open. */
  id = "upl_1";
  completed: string[] = [];
  digests: string[] = [];
  failures = new Map<number, number>();

  readonly uploads = createClient(
    UploadService,
    createRouterTransport(({ service }) => {
      service(UploadService, {
        createUpload: ({ file, acceptsHeaders }) => {
          this.offers += 1;
          this.areHeadersAccepted = acceptsHeaders;
          this.digests.push(file!.sha256);
          const size = Number(file!.sizeBytes);
          const parts = Array.from({ length: Math.ceil(size / PART) }, (_, index) =>
            create(UploadPartSchema, {
              number: index + 1,
              offsetBytes: BigInt(index * PART),
              sizeBytes: BigInt(Math.min(PART, size - index * PART)),
              url: `https://store.test/${index + 1}?offer=${this.offers}`,
              arrived: this.parts.has(index + 1),
              headers: this.headers,
            }),
          );
          return {
            upload: { id: this.id, path: file!.path, complete: this.isStored, parts: this.isStored ? [] : parts },
          };
        },
        completeUpload: ({ uploadId }) => {
          this.completed.push(uploadId);
          if (this.parts.size < Math.ceil(text.length / PART))
            throw new ConnectError("parts are missing", Code.FailedPrecondition);
          this.isStored = true;
          return { file: { path: "a.mp4" } };
        },
      });
    }),
  );

  readonly put: Put = async ({ url }, body, onSent) => {
    const number = Number(new URL(url).pathname.slice(1));
    this.puts.push(number);
    const left = this.failures.get(number) ?? 0;
    if (left > 0) {
      this.failures.set(number, left - 1);
      throw new PartRefused(0);
    }
    onSent(body.size);
    this.parts.set(number, await body.text());
  };
}

let number = 0;
let ledger: Ledger;
let store: Store;
let hashed: number;

beforeEach(() => {
  ledger = new Ledger(createStore(`test-${number++}`, "uploads"));
  store = new Store();
  hashed = 0;
});

function queue(put: Put = store.put) {
  const hash = async () => {
    hashed += 1;
    return "ab".repeat(32);
  };
  return new UploadQueue(PARENT, { uploads: store.uploads, hash, put, ledger, schedule: (redraw) => redraw() });
}

const clip = () => new File([text], "a.mp4", { lastModified: 1000 });

async function ended(made: UploadQueue) {
  await vi.waitFor(() => expect(made.snapshot().totals.isBusy).toBe(false), { timeout: 10_000 });
  return made.snapshot();
}

test("a file is sent by parts, verified, and then forgotten", async () => {
  const made = queue();
  await made.add([{ file: clip(), path: "clips/a.mp4" }]);
  const { transfers, totals } = await ended(made);

  expect(transfers).toMatchObject([{ stage: "done", sentBytes: 12, arrivedBytes: 12, isKnown: false }]);
  expect(totals).toMatchObject({ files: 1, done: 1, failed: 0 });
  expect(
    [...store.parts]
      .sort()
      .map(([, bytes]) => bytes)
      .join(""),
  ).toBe(text);
  expect(await ledger.pending(PARENT)).toEqual([]);
});

test("after a reload only what is missing is sent, and the file is not read again", async () => {
  const left = new Promise<void>(() => undefined);
  const cut: Put = async (to, ...rest) => (to.url.includes("/3?") ? left : store.put(to, ...rest));
  const before = queue(cut);
  await before.add([{ file: clip(), path: "a.mp4" }]);
  await vi.waitFor(() => expect(store.parts.size).toBe(2));
  before.close();
  expect(await ledger.pending(PARENT)).toMatchObject([{ path: "a.mp4", sizeBytes: 12, sha256: "ab".repeat(32) }]);
  store.puts = [];

  const after = queue();
  await after.add([{ file: clip(), path: "a.mp4" }]);
  const { transfers } = await ended(after);

  expect(store.puts).toEqual([3]);
  expect(hashed).toBe(1);
  expect(transfers).toMatchObject([{ stage: "done", sentBytes: 4, arrivedBytes: 12 }]);
});

test("another file of the same name is read anew", async () => {
  await ledger.remember({ parentId: PARENT, path: "a.mp4", sizeBytes: 12, lastModified: 999, sha256: "cd".repeat(32) });
  const made = queue();
  await made.add([{ file: clip(), path: "a.mp4" }]);
  await ended(made);

  expect(hashed).toBe(1);
});

test("what is stored already is not sent", async () => {
  store.isStored = true;
  const made = queue();
  await made.add([{ file: clip(), path: "b.mp4" }]);
  const { transfers, totals } = await ended(made);

  expect(store.puts).toEqual([]);
  expect(transfers).toMatchObject([{ stage: "done", sentBytes: 0, isKnown: true }]);
  expect(totals.known).toBe(1);
});

test("a part that breaks is sent again to a fresh address", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true, advanceTimeDelta: 200 });
  store.failures.set(2, 2);
  const made = queue();
  await made.add([{ file: clip(), path: "a.mp4" }]);
  await ended(made);
  vi.useRealTimers();

  expect(store.puts.filter((part) => part === 2)).toHaveLength(3);
  expect(store.offers).toBe(3);
});

test("a lost connection is waited out, however long it takes", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  store.failures.set(2, 20);
  const made = queue();
  await made.add([{ file: clip(), path: "a.mp4" }]);
  let waited = 0;
  for (let tick = 0; tick < 2000 && made.snapshot().totals.isBusy; tick += 1) {
    if (made.snapshot().transfers[0]!.isWaiting) waited += 1;
    await vi.advanceTimersByTimeAsync(5_000);
    await new Promise((turn) => setImmediate(turn));
  }
  vi.useRealTimers();

  expect(made.snapshot().totals.done).toBe(1);
  expect(store.puts.filter((part) => part === 2)).toHaveLength(21);
  expect(waited).toBeGreaterThan(15);
  expect(made.snapshot().transfers[0]!.isWaiting).toBe(false);
});

test("a part that fails for good stops the others of its file", async () => {
  const signals: AbortSignal[] = [];
  const refuse: Put = async ({ url }, _body, _onSent, signal) => {
    if (url.includes("/1?")) throw new TypeError("the disk was pulled out");
    signals.push(signal);
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const made = queue(refuse);
  await made.add([{ file: clip(), path: "a.mp4" }]);
  const { transfers } = await ended(made);

  expect(transfers).toMatchObject([{ stage: "failed", problem: "the disk was pulled out" }]);
  expect(signals.every((signal) => signal.aborted)).toBe(true);
});

test("addresses that have ended are renewed once for all parts of a file", async () => {
  vi.useFakeTimers({ toFake: ["Date"] });
  const late: Put = async (to, ...rest) => {
    // The first three parts take a quarter of an hour.
    if (store.puts.length < 3) vi.setSystemTime(Date.now() + 5 * 60_000);
    if (!to.url.includes(`offer=${Math.ceil((store.puts.length + 1) / 3)}`)) throw new PartRefused(403);
    await store.put(to, ...rest);
  };
  const made = queue(late);
  await made.add([{ file: new File([text + text], "a.mp4", { lastModified: 1000 }), path: "a.mp4" }]);
  await ended(made);
  vi.useRealTimers();

  expect(store.puts).toHaveLength(6);
  expect(store.offers).toBe(2);
});

test("a file that was changed meanwhile fails, as no connection is lost", async () => {
  const file = clip();
  const gone = () => Promise.reject(new DOMException("gone", "NotReadableError"));
  file.slice = () => Object.assign(new Blob(["0123"]), { slice: () => ({ arrayBuffer: gone }) });
  store.failures.set(1, 1);
  const made = queue();
  await made.add([{ file, path: "a.mp4" }]);
  const { transfers } = await ended(made);

  expect(transfers[0]).toMatchObject({ stage: "failed", problem: expect.stringContaining("cannot be read any more") });
});

test("a browser that remembers nothing still sends, and says so", async () => {
  const refuse = () => Promise.reject(new Error("storage is switched off"));
  ledger = new Ledger(refuse);
  const made = queue();
  await made.add([{ file: clip(), path: "a.mp4" }]);
  const { totals, note } = await ended(made);

  expect(totals.done).toBe(1);
  expect(note).toMatch(/storage is switched off/);
});

test("a part whose answer was lost counts as arrived", async () => {
  const lost: Put = async (to, body, ...rest) => {
    await store.put(to, body, ...rest);
    if (to.url.includes("/1?offer=1")) throw new PartRefused(0);
  };
  const made = queue(lost);
  await made.add([{ file: clip(), path: "a.mp4" }]);
  await ended(made);

  expect(store.puts.filter((part) => part === 1)).toHaveLength(1);
});

test("a refusal is told with the file, and the others go on", async () => {
  const refusing = createClient(
    UploadService,
    createRouterTransport(({ service }) => {
      service(UploadService, {
        createUpload: ({ file }) => {
          if (file!.path.endsWith(".exe")) throw new ConnectError("a dataset takes no such file", Code.InvalidArgument);
          return { upload: { id: "upl_2", complete: true } };
        },
      });
    }),
  );
  const made = new UploadQueue(PARENT, {
    uploads: refusing,
    hash: async () => "ab".repeat(32),
    put: store.put,
    ledger,
    schedule: (redraw) => redraw(),
  });
  await made.add([
    { file: clip(), path: "a.exe" },
    { file: clip(), path: "a.mp4" },
  ]);
  const { transfers, totals } = await ended(made);

  expect(totals).toMatchObject({ done: 1, failed: 1 });
  expect(transfers[0]).toMatchObject({ stage: "failed", problem: "A dataset takes no such file" });
});

test("what failed goes on when it is tried again", async () => {
  const refuse: Put = async () => {
    throw new TypeError("the disk was pulled out");
  };
  let put: Put = refuse;
  const made = queue((...call) => put(...call));
  await made.add([{ file: clip(), path: "a.mp4" }]);
  expect((await ended(made)).totals.failed).toBe(1);
  put = store.put;
  made.retry();
  await vi.waitFor(() => expect(made.snapshot().totals.done).toBe(1));
});

test("headers that have the store verify the bytes are sent as they were given", async () => {
  store.headers = { "x-amz-checksum-sha256": "YWJj", "if-none-match": "*" };
  const targets: Target[] = [];
  const made = queue((to, ...rest) => {
    targets.push({ ...to });
    return store.put(to, ...rest);
  });
  await made.add([{ file: clip(), path: "a.mp4" }]);
  await ended(made);

  expect(store.areHeadersAccepted).toBe(true);
  expect(targets.map((to) => to.headers)).toEqual([store.headers, store.headers, store.headers]);
});

test("an upload that ended while it was sent is completed by its newest name", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true, advanceTimeDelta: 200 });
  const made = queue(async (to, ...rest) => {
    if (to.url.endsWith("/2?offer=1")) {
      store.id = "upl_2";
      throw new PartRefused(403);
    }
    await store.put(to, ...rest);
  });
  await made.add([{ file: clip(), path: "a.mp4" }]);
  const { totals } = await ended(made);
  vi.useRealTimers();

  expect(totals.done).toBe(1);
  expect(store.completed).toEqual(["upl_2"]);
});

test("a file that is not what is remembered of it is read again, once", async () => {
  await ledger.remember({
    parentId: PARENT,
    path: "a.mp4",
    sizeBytes: 12,
    lastModified: 1000,
    sha256: "cd".repeat(32),
  });
  const made = queue(async (to, ...rest) => {
    if (store.digests.at(-1) !== "ab".repeat(32)) throw refusalOf(400, true)!;
    await store.put(to, ...rest);
  });
  await made.add([{ file: clip(), path: "a.mp4" }]);
  const { totals } = await ended(made);

  expect(totals.done).toBe(1);
  expect(hashed).toBe(1);
});

test("a file that is never what was read just now is told, and not remembered", async () => {
  const made = queue(async () => {
    throw refusalOf(400, true)!;
  });
  await made.add([{ file: clip(), path: "a.mp4" }]);
  const { transfers } = await ended(made);

  expect(transfers[0]).toMatchObject({ stage: "failed", problem: expect.stringContaining("nothing writes to it") });
  expect(hashed).toBe(2);
  expect((await ledger.pending(PARENT)).map((entry) => entry.sha256)).toEqual([]);
});

test("what the store has already need not be sent, and other bytes than the announced ones are told", () => {
  expect(refusalOf(200, true)).toBeUndefined();
  expect(refusalOf(412, true)).toBeUndefined();
  expect(refusalOf(412, false)?.message).toBe("the object store answered 412");
  expect(refusalOf(400, true)?.message).toMatch(/not the one that was read before/);
});

test("a part is put with its headers", async () => {
  const sent: Record<string, string> = {};
  class Request {
    upload = {};
    status = 0;
    onload = () => undefined;
    open = () => undefined;
    setRequestHeader = (name: string, value: string) => Object.assign(sent, { [name]: value });
    send() {
      this.status = 412;
      this.onload();
    }
  }
  vi.stubGlobal("XMLHttpRequest", Request);
  const headers = { "if-none-match": "*", "content-encoding": "identity" };
  await putPart(
    { url: "https://store.test/1", headers },
    new Blob(["0123"]),
    () => undefined,
    new AbortController().signal,
  );
  vi.unstubAllGlobals();

  expect(sent).toEqual(headers);
});
