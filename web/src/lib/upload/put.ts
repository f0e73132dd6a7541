// Sends one part. XMLHttpRequest, because fetch does not tell how much of a body has left.

export class PartRefused extends Error {
  constructor(readonly status: number) {
    super(status ? `the object store answered ${status}` : "the connection broke");
  }

  /** Whether nothing is wrong with the part: the store was not reached, or is away. */
  get isPassing(): boolean {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

export type Put = (url: string, body: Blob, onSent: (bytes: number) => void, signal: AbortSignal) => Promise<void>;

/** Resolves once the store has taken the bytes; throws PartRefused, with status 0 for a broken connection. */
export const putPart: Put = (url, body, onSent, signal) =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    const end = (finish: () => void) => {
      signal.removeEventListener("abort", stop);
      finish();
    };
    request.open("PUT", url);
    request.upload.onprogress = (event) => onSent(event.loaded);
    request.onload = () => end(() => (request.status < 300 ? resolve() : reject(new PartRefused(request.status))));
    request.onerror = () => end(() => reject(new PartRefused(0)));
    request.onabort = () => end(() => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", stop, { once: true });
    request.send(body);
  });
