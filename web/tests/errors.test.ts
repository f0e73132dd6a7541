import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "@/gen/google/rpc/error_details_pb";
import { explain, isPassing } from "@/lib/errors";

function refusal(code: Code, reason: string, message: string, ...more: ConnectError["details"]) {
  const info = { desc: ErrorInfoSchema, value: create(ErrorInfoSchema, { reason, domain: "reeltune" }) };
  return new ConnectError(message, code, undefined, [info, ...(more as never[])]);
}

test("the service's own words reach the user, with the reason for programs", () => {
  const problem = explain(
    refusal(Code.AlreadyExists, "DATASET_EXISTS", "you have a dataset of this name; choose another one"),
  );

  expect(problem).toMatchObject({
    reason: "DATASET_EXISTS",
    message: "You have a dataset of this name; choose another one",
  });
});

test("what is wrong with a field is told at the field", () => {
  const bad = create(BadRequestSchema, {
    fieldViolations: [{ field: "password", description: "must be at least 15 characters" }],
  });
  const problem = explain(
    refusal(Code.InvalidArgument, "FIELD_INVALID", "password: …", { desc: BadRequestSchema, value: bad } as never),
  );

  expect(problem.fields).toEqual({ password: "must be at least 15 characters" });
});

test("a pause that the service asks for is told in milliseconds", () => {
  const retry = create(RetryInfoSchema, { retryDelay: { seconds: 2n, nanos: 500_000_000 } });
  const problem = explain(
    refusal(Code.ResourceExhausted, "SIGN_IN_BUSY", "busy", { desc: RetryInfoSchema, value: retry } as never),
  );

  expect(problem.retryAfterMs).toBe(2500);
});

test("a lost connection is told as one", () => {
  expect(explain(new ConnectError("Failed to fetch", Code.Unknown)).message).toMatch(/cannot be reached/);
});

test.each([
  [new ConnectError("x", Code.Unavailable), true],
  [new ConnectError("x", Code.Unknown), true],
  [new ConnectError("x", Code.NotFound), false],
  [new ConnectError("x", Code.PermissionDenied), false],
  [refusal(Code.ResourceExhausted, "QUOTA_EXCEEDED", "x"), false],
  [refusal(Code.ResourceExhausted, "UPLOADS_BUSY", "x"), true],
])("only what may pass is tried again: %s", (error, passes) => {
  expect(isPassing(error)).toBe(passes);
});
