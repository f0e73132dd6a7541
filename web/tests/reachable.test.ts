import { Code, ConnectError } from "@connectrpc/connect";
import { QueryClient } from "@tanstack/react-query";
import { expect, test } from "vitest";
import { Reachability, untilRead } from "@/lib/reachable";

const gone = new ConnectError("gone", Code.Unavailable);
const refused = new ConnectError("not yours", Code.PermissionDenied);

test("the service is lost from the first call that nobody answers to the next answer", async () => {
  const client = new QueryClient({ defaultOptions: { queries: { retry: false } } });
  const reachability = new Reachability(client.getQueryCache());
  const told: boolean[] = [];
  reachability.subscribe(() => told.push(reachability.isLost()));
  const ask = (answer: () => unknown) =>
    client.fetchQuery({ queryKey: ["job"], staleTime: 0, queryFn: async () => answer() }).catch(() => undefined);
  const fail = (error: Error) => () => {
    throw error;
  };

  await ask(() => "it");
  expect(reachability.isLost()).toBe(false);
  await ask(fail(gone));
  await ask(fail(gone));
  expect([reachability.isLost(), told]).toEqual([true, [true]]);
  // A refusal is an answer.
  await ask(fail(refused));
  expect([reachability.isLost(), told]).toEqual([false, [true, false]]);
  await ask(fail(gone));
  await ask(() => "it");
  expect(told).toEqual([true, false, true, false]);
});

test("what could not be read is asked for anew until it can, and what is refused is not", () => {
  expect(untilRead({ state: { status: "error", error: gone } })).toBeGreaterThan(0);
  expect(untilRead({ state: { status: "error", error: refused } })).toBe(false);
  expect(untilRead({ state: { status: "success", error: null } })).toBe(false);
});
