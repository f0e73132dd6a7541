// Many files by one call: what is asked for while a call is on its way goes together by the next one.
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import type { Status } from "@/gen/google/rpc/status_pb";
import type { UploadBatchService } from "@/gen/reeltune/catalog/v1/upload_batch_service_pb";
import type { UploadService } from "@/gen/reeltune/catalog/v1/upload_service_pb";
import { reasonOf } from "../errors";

/** As the contract bounds a call. */
const MOST_IN_CALL = 64;
const CALLS_AT_ONCE = 2;
/** How long others are waited for: little beside what a call takes. */
const GATHER_MS = 15;
/** Larger files have several parts: they are opened and completed by themselves, which takes them longer than the call. */
export const SMALL_BYTES = 1024 * 1024;

export type Uploads = Pick<Client<typeof UploadService>, "createUpload" | "completeUpload">;
export type UploadBatches = Client<typeof UploadBatchService>;

/** Returns what looks like `UploadService` and asks for small files together; each still succeeds or fails by itself. */
export function inBatches(uploads: Uploads, batches: UploadBatches): Uploads {
  // By their ids: of a completion the size is not told.
  const small = new Set<string>();
  const create = new Together<Parameters<Uploads["createUpload"]>, Awaited<ReturnType<Uploads["createUpload"]>>>(
    (request, options) => uploads.createUpload(request, options),
    async (requests, options) =>
      (await batches.batchCreateUploads({ requests }, options)).results.map(({ outcome }) =>
        outcome.case === "upload"
          ? { $typeName: "reeltune.catalog.v1.CreateUploadResponse", upload: outcome.value }
          : errorOf(outcome.value),
      ),
  );
  const complete = new Together<Parameters<Uploads["completeUpload"]>, Awaited<ReturnType<Uploads["completeUpload"]>>>(
    (request, options) => uploads.completeUpload(request, options),
    async (requests, options) =>
      (await batches.batchCompleteUploads({ requests }, options)).results.map(({ outcome }) =>
        outcome.case === "file"
          ? { $typeName: "reeltune.catalog.v1.CompleteUploadResponse", file: outcome.value }
          : errorOf(outcome.value),
      ),
  );
  return {
    createUpload: async (request, options) => {
      if ((request.file?.sizeBytes ?? 0n) > SMALL_BYTES) return uploads.createUpload(request, options);
      const answer = await create.ask(request, options);
      if (answer.upload) small.add(answer.upload.id);
      return answer;
    },
    completeUpload: async (request, options) => {
      if (!small.delete(request.uploadId ?? "")) return uploads.completeUpload(request, options);
      return complete.ask(request, options);
    },
  };
}

/** The error that the call for this file alone would have ended with. */
function errorOf(status: Status | undefined): ConnectError {
  const error = new ConnectError(status?.message ?? "", status?.code || Code.Unknown);
  error.details = (status?.details ?? []).map(({ typeUrl, value }) => ({
    type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1),
    value,
  }));
  return error;
}

interface Waiting<Request, Answer> {
  request: Request;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

/** Gathers what is asked for one by one, all with the same options. */
class Together<Asked extends [request: unknown, options?: { signal?: AbortSignal }], Answer extends object> {
  #waiting: Waiting<Asked[0], Answer>[] = [];
  #calls = 0;

  constructor(
    private readonly askOne: (request: Asked[0], options: Asked[1]) => Promise<Answer>,
    /** Answers each request at its place, or says why there is no answer. */
    private readonly askAll: (requests: Asked[0][], options: Asked[1]) => Promise<(Answer | ConnectError)[]>,
  ) {}

  ask(request: Asked[0], options: Asked[1]): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, resolve, reject });
      if (this.#waiting.length === 1) setTimeout(() => this.#callNext(options), GATHER_MS);
    });
  }

  #callNext(options: Asked[1]): void {
    while (this.#waiting.length > 0 && this.#calls < CALLS_AT_ONCE) {
      const asked = this.#waiting.splice(0, MOST_IN_CALL);
      this.#calls += 1;
      void this.#call(asked, options).finally(() => {
        this.#calls -= 1;
        this.#callNext(options);
      });
    }
  }

  async #call(asked: Waiting<Asked[0], Answer>[], options: Asked[1]): Promise<void> {
    if (asked.length === 1) return this.#byItself(asked[0]!, options);
    try {
      const answers = await this.askAll(
        asked.map((one) => one.request),
        options,
      );
      await Promise.all(asked.map((one, index) => this.#settle(one, answers[index], options)));
    } catch (error) {
      if (!isAboutOne(error)) for (const one of asked) one.reject(error);
      // One of them is no request, which fails the call for all; or the service knows no batches.
      else await Promise.all(asked.map((one) => this.#byItself(one, options)));
    }
  }

  async #settle(one: Waiting<Asked[0], Answer>, answer: Answer | ConnectError | undefined, options: Asked[1]) {
    if (answer === undefined || reasonOf(answer) === "BATCH_TOO_LARGE") return this.#byItself(one, options);
    if (answer instanceof ConnectError) one.reject(answer);
    else one.resolve(answer);
  }

  async #byItself({ request, resolve, reject }: Waiting<Asked[0], Answer>, options: Asked[1]): Promise<void> {
    await this.askOne(request, options).then(resolve, reject);
  }
}

function isAboutOne(error: unknown): boolean {
  return error instanceof ConnectError && [Code.InvalidArgument, Code.Unimplemented].includes(error.code);
}
