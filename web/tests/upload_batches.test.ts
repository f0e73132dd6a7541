import "fake-indexeddb/auto";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { createStore } from "idb-keyval";
import { beforeEach, expect, test, vi } from "vitest";
import { ErrorInfoSchema } from "@/gen/google/rpc/error_details_pb";
import { UploadBatchService } from "@/gen/reeltune/catalog/v1/upload_batch_service_pb";
import { UploadService, type CreateUploadRequest } from "@/gen/reeltune/catalog/v1/upload_service_pb";
import { inBatches, SMALL_BYTES } from "@/lib/upload/batch";
import { Ledger } from "@/lib/upload/ledger";
import type { Put } from "@/lib/upload/put";
import { UploadQueue } from "@/lib/upload/queue";

const FILES = 200;

/** What was called, with how many files; and what is refused, by the paths of files. */
let calls: [string, number][];
let refusals: Map<string, { code: Code; reason: string }>;
/** How calls for many fail as a whole. */
let failures: ConnectError[];
let sent: Set<string>;
let placed: string[];
let made = 0;

function refusal(path: string) {
  const { code, reason } = refusals.get(path)!;
  const value = toBinary(ErrorInfoSchema, create(ErrorInfoSchema, { reason }));
  return { code, message: `no: ${path}`, details: [{ typeUrl: "type.googleapis.com/google.rpc.ErrorInfo", value }] };
}

function opened({ file }: CreateUploadRequest) {
  const size = Number(file!.sizeBytes);
  const half = size > SMALL_BYTES ? Math.ceil(size / 2) : size;
  const parts = [half, size - half].filter(Boolean).map((sizeBytes, index) => ({
    number: index + 1,
    offsetBytes: BigInt(index * half),
    sizeBytes: BigInt(sizeBytes),
    url: `https://store.test/${file!.path}`,
  }));
  return { id: `upl_${file!.path}`, path: file!.path, parts };
}

function place(uploadId: string) {
  const path = uploadId.slice("upl_".length);
  expect(sent, "it was put in place before it was sent").toContain(path);
  placed.push(path);
  return { path };
}

const transport = createRouterTransport(({ service }) => {
  service(UploadService, {
    createUpload: (request) => {
      calls.push(["create", 1]);
      const refused = refusals.get(request.file!.path);
      if (refused && refused.reason !== "BATCH_TOO_LARGE") throw new ConnectError("no, never", refused.code);
      return { upload: opened(request) };
    },
    completeUpload: ({ uploadId }) => {
      calls.push(["complete", 1]);
      return { file: place(uploadId) };
    },
  });
  service(UploadBatchService, {
    batchCreateUploads: ({ requests }) => {
      calls.push(["batch create", requests.length]);
      const failure = failures.pop();
      if (failure) throw failure;
      return {
        results: requests.map((request) => {
          const { path } = request.file!;
          if (refusals.has(path)) return { path, outcome: { case: "error", value: refusal(path) } };
          return { path, outcome: { case: "upload", value: opened(request) } };
        }),
      };
    },
    batchCompleteUploads: ({ requests }) => {
      calls.push(["batch complete", requests.length]);
      return {
        results: requests.map(({ uploadId }) => ({ uploadId, outcome: { case: "file", value: place(uploadId) } })),
      };
    },
  });
});

beforeEach(() => {
  [calls, refusals, failures, sent, placed] = [[], new Map(), [], new Set(), []];
});

async function upload(files: [path: string, size: number][]) {
  const put: Put = async ({ url }, body, onSent) => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    onSent(body.size);
    sent.add(url.slice("https://store.test/".length));
  };
  const queue = new UploadQueue("ds_01", {
    uploads: inBatches(createClient(UploadService, transport), createClient(UploadBatchService, transport)),
    hash: async () => "ab".repeat(32),
    put,
    ledger: new Ledger(createStore(`batches-${made++}`, "uploads")),
    schedule: (redraw) => redraw(),
  });
  await queue.add(files.map(([path, size]) => ({ path, file: new File([new Uint8Array(size)], path) })));
  await vi.waitFor(() => expect(queue.snapshot().totals.isBusy).toBe(false), { timeout: 30_000 });
  return queue.snapshot();
}

const small = (count: number) => Array.from({ length: count }, (_, index): [string, number] => [`${index}.mp4`, 3]);
const paths = (files: [string, number][]) => files.map(([path]) => path).sort();

test("many small files take few calls, and each arrives once", { timeout: 60_000 }, async () => {
  const { totals } = await upload(small(FILES));

  expect(totals).toMatchObject({ files: FILES, done: FILES, failed: 0 });
  expect(placed.sort()).toEqual(paths(small(FILES)));
  expect(calls.length).toBeLessThan(FILES / 2);
  expect(Math.max(...calls.map(([, files]) => files))).toBeLessThanOrEqual(64);
});

test("a large file is opened and completed by itself", async () => {
  await upload([["long.mp4", SMALL_BYTES + 1], ...small(5)]);

  expect(placed).toContain("long.mp4");
  expect(calls).toContainEqual(["create", 1]);
  expect(calls.filter(([name]) => name === "batch create").reduce((sum, [, files]) => sum + files, 0)).toBeLessThan(6);
});

test("one file that is refused is told why, and all others arrive", async () => {
  refusals.set("2.mp4", { code: Code.ResourceExhausted, reason: "QUOTA_EXCEEDED" });
  const { transfers, totals } = await upload(small(8));

  expect(totals).toMatchObject({ done: 7, failed: 1 });
  expect(transfers.find((one) => one.stage === "failed")).toMatchObject({ path: "2.mp4", problem: "No: 2.mp4" });
});

test("what is too much for a batch is asked for alone", async () => {
  refusals.set("2.mp4", { code: Code.InvalidArgument, reason: "BATCH_TOO_LARGE" });
  expect((await upload(small(8))).totals).toMatchObject({ done: 8, failed: 0 });
});

test.each([Code.Unimplemented, Code.InvalidArgument])(
  "where the call for many is refused as a whole, each file is asked for alone: %i",
  async (code) => {
    failures.push(new ConnectError("not like this", code));
    expect((await upload(small(8))).totals).toMatchObject({ done: 8, failed: 0 });
    expect(calls).toContainEqual(["create", 1]);
  },
);

test("a call for many that is lost is made again", async () => {
  failures.push(new ConnectError("gone", Code.Unavailable));
  expect((await upload(small(8))).totals).toMatchObject({ done: 8, failed: 0 });
  expect(placed.sort()).toEqual(paths(small(8)));
});
