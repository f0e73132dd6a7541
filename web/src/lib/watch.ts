// Follows a stream for as long as somebody looks: taken up again after a break, left when it is over.
import { isPassing, reasonOf } from "./errors";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;

export interface Following<Message> {
  open: (signal: AbortSignal) => AsyncIterable<Message>;
  onMessage: (message: Message) => void;
  /** Whether the stream is broken now. */
  onBroken?: (isBroken: boolean) => void;
}

/** Returns when the stream has ended by itself or `signal` fires; throws what another try would not mend. */
export async function follow<Message>(following: Following<Message>, signal: AbortSignal): Promise<void> {
  let pause = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    try {
      for await (const message of following.open(signal)) {
        pause = FIRST_PAUSE_MS;
        following.onBroken?.(false);
        following.onMessage(message);
      }
      return;
    } catch (error) {
      if (signal.aborted) return;
      // A watch ends with the token that it began with; nothing is broken, and the next one has a fresh token.
      const isExpired = reasonOf(error) === "TOKEN_EXPIRED";
      if (!isExpired && !isPassing(error)) throw error;
      if (!isExpired) following.onBroken?.(true);
      await rest(pause, signal);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }
}

/** Makes a call until it is answered or `signal` fires; throws what another try would not mend. */
export async function answered<Answer>(
  call: () => Promise<Answer>,
  signal: AbortSignal,
  onBroken?: (isBroken: boolean) => void,
): Promise<Answer> {
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    try {
      const answer = await call();
      onBroken?.(false);
      return answer;
    } catch (error) {
      if (signal.aborted || !isPassing(error)) throw error;
      onBroken?.(true);
      await rest(pause, signal);
    }
  }
}

/** Waits; a signal ends the wait without an error. */
export function rest(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      // Many wait by the same signal while an upload waits for its connection, again and again.
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    signal?.addEventListener("abort", end);
  });
}
