import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test, vi } from "vitest";
import { ErrorInfoSchema } from "@/gen/google/rpc/error_details_pb";
import { answered, follow } from "@/lib/watch";

test("a broken stream is taken up again, and the page knows that it is broken meanwhile", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true, advanceTimeDelta: 200 });
  let opened = 0;
  const open = async function* () {
    opened += 1;
    yield opened;
    if (opened === 1) throw new ConnectError("gone", Code.Unavailable);
  };
  const seen: number[] = [];
  const breaks: boolean[] = [];
  await follow(
    { open, onMessage: (message) => seen.push(message), onBroken: (isBroken) => breaks.push(isBroken) },
    new AbortController().signal,
  );
  vi.useRealTimers();

  expect(seen).toEqual([1, 2]);
  expect(breaks).toEqual([false, true, false]);
});

test("what another try would not mend is thrown at once", async () => {
  const open = (): AsyncIterable<number> => {
    throw new ConnectError("no such dataset", Code.NotFound);
  };
  await expect(follow({ open, onMessage: () => undefined }, new AbortController().signal)).rejects.toThrow(
    "no such dataset",
  );
});

test("who leaves ends the stream without an error", async () => {
  const stop = new AbortController();
  const open = async function* (signal: AbortSignal) {
    yield 1;
    signal.throwIfAborted();
  };
  await follow({ open, onMessage: () => stop.abort() }, stop.signal);
});

test("a watch whose token has ended goes on with a fresh one, and nothing looks broken", async () => {
  const expired = { desc: ErrorInfoSchema, value: { reason: "TOKEN_EXPIRED", domain: "reeltune" } };
  let opened = 0;
  const open = async function* () {
    opened += 1;
    yield opened;
    if (opened === 1) throw new ConnectError("expired", Code.Unauthenticated, undefined, [expired]);
  };
  const breaks: boolean[] = [];
  await follow(
    { open, onMessage: () => undefined, onBroken: (isBroken) => breaks.push(isBroken) },
    new AbortController().signal,
  );

  expect(opened).toBe(2);
  expect(breaks).toEqual([false, false]);
});

test("a call that is lost is made again until it is answered, and one that is refused is not", async () => {
  const told: boolean[] = [];
  const never = new AbortController().signal;
  const lost = new ConnectError("gone", Code.Unavailable);
  const answers = [() => Promise.reject(lost), async () => "it"];
  expect(
    await answered(
      () => answers.shift()!(),
      never,
      (isBroken) => told.push(isBroken),
    ),
  ).toBe("it");
  expect(told).toEqual([true, false]);

  const refused = new ConnectError("not yours", Code.NotFound);
  await expect(answered(() => Promise.reject(refused), never)).rejects.toBe(refused);
  const stop = new AbortController();
  const left = answered(() => Promise.reject(lost), stop.signal);
  stop.abort();
  await expect(left).rejects.toBe(lost);
});
