import { expect, test } from "vitest";
import { RequestId } from "@/lib/request_id";

test("a change keeps its id until it has happened, and another change has another", () => {
  const made = new RequestId();
  const first = made.for({ name: "a" });

  expect(made.for({ name: "a" })).toBe(first);
  const other = made.for({ name: "b" });
  expect(other).not.toBe(first);
  made.done();
  expect(made.for({ name: "b" })).not.toBe(other);
});
