// Asks workers for the SHA-256 of files.
import type { Asked, Told } from "./hash_worker";

export type Hash = (file: Blob, onHashed: (bytes: number) => void) => Promise<string>;

const WORKERS = 2;

interface Question {
  worker: Worker;
  onHashed: (bytes: number) => void;
  resolve: (sha256: string) => void;
  reject: (error: Error) => void;
}

/** Returns a function that hashes in at most two workers, which start when the first file comes. */
export function hashInWorkers(): Hash {
  const workers: Worker[] = [];
  const questions = new Map<number, Question>();
  let next = 0;

  function start(): Worker {
    const worker = new Worker(new URL("./hash_worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<Told>) => answer(data);
    worker.onerror = (event) => {
      // It answers nothing any more; the next file gets a new one.
      worker.terminate();
      workers.splice(workers.indexOf(worker), 1);
      for (const [id, question] of questions) {
        if (question.worker !== worker) continue;
        questions.delete(id);
        question.reject(new Error(event.message || "files cannot be read here"));
      }
    };
    return worker;
  }

  function answer(told: Told): void {
    const question = questions.get(told.id);
    if (!question) return;
    if ("hashed" in told) return question.onHashed(told.hashed);
    questions.delete(told.id);
    if ("sha256" in told) question.resolve(told.sha256);
    else question.reject(new Error(`the file cannot be read: ${told.problem}`));
  }

  return (file, onHashed) =>
    new Promise((resolve, reject) => {
      const id = next++;
      if (workers.length < WORKERS) workers.push(start());
      const worker = workers[id % workers.length]!;
      questions.set(id, { worker, onHashed, resolve, reject });
      worker.postMessage({ id, file } satisfies Asked);
    });
}
