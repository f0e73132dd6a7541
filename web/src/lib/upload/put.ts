// Sends one part. XMLHttpRequest, because fetch does not tell how much of a body has left.

export class PartRefused extends Error {
  /** `hasOtherBytes`: the store has found that the bytes are not the announced ones. */
  constructor(
    readonly status: number,
    readonly hasOtherBytes = false,
  ) {
    const meaning = hasOtherBytes ? ": the file is not the one that was read before" : "";
    super(status ? `the object store answered ${status}${meaning}` : "the connection broke");
  }

  /** Whether nothing is wrong with the part: the store was not reached, or is away. */
  get isPassing(): boolean {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

/** Where a part goes; headers, if there are any, have the store verify the bytes itself. */
export interface Target {
  url: string;
  headers: Readonly<Record<string, string>>;
}

export type Put = (to: Target, body: Blob, onSent: (bytes: number) => void, signal: AbortSignal) => Promise<void>;

const OTHER_BYTES = 400;
const THERE_ALREADY = 412;

/** Resolves once the store has taken the bytes; throws PartRefused, with status 0 for a broken connection. */
export const putPart: Put = ({ url, headers }, body, onSent, signal) =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    const end = (finish: () => void) => {
      signal.removeEventListener("abort", stop);
      finish();
    };
    request.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.onload = () =>
      end(() => {
        const refusal = refusalOf(request.status, Object.keys(headers).length > 0);
        if (refusal) reject(refusal);
        else resolve();
      });
    request.onerror = () => end(() => reject(new PartRefused(0)));
    request.onabort = () => end(() => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", stop, { once: true });
    request.send(body);
  });

/** Returns what a status says against a part, or nothing where the bytes are in the store. */
export function refusalOf(status: number, isVerified: boolean): PartRefused | undefined {
  if (status < 300 || (isVerified && status === THERE_ALREADY)) return undefined;
  return new PartRefused(status, isVerified && status === OTHER_BYTES);
}
