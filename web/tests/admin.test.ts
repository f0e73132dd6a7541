import { create } from "@bufbuild/protobuf";
import { expect, test, vi } from "vitest";
import { QuotaSchema } from "@/gen/reeltune/scheduler/v1/quota_pb";
import { changeOf, textsOf, userFilter } from "@/lib/admin";

vi.mock("@/lib/clients", () => ({ transport: {} }));

const quota = (limits: object = {}) => create(QuotaSchema, { userId: "usr_1", etag: "e", ...limits });

test("users are found by a part of their name, or of their address", () => {
  expect(userFilter("", false)).toBe("");
  expect(userFilter(" ada ", false)).toBe('username : "ada"');
  expect(userFilter("ada@ex", true)).toBe('email : "ada@ex" AND disabled = true');
  expect(userFilter('a"b\\', false)).toBe('username : "a\\"b\\\\"');
});

test("limits that nobody touches are not changed, to the byte", () => {
  const odd = quota({ runningJobs: 0, deviceHoursPerDay: 0.5, storageBytes: 1_234_567_891n });
  expect(textsOf(odd)).toEqual({
    running_jobs: "0",
    queued_jobs: "",
    device_hours_per_day: "0.5",
    storage_bytes: "1.234567891",
  });
  expect(changeOf(odd, textsOf(odd))).toEqual({
    paths: [],
    quota: { userId: "usr_1", etag: "e", runningJobs: 0, deviceHoursPerDay: 0.5, storageBytes: 1_234_567_891n },
  });
});

test("an empty limit is lifted, and what was typed is set", () => {
  const before = quota({ runningJobs: 2, storageBytes: 5_000_000_000n });
  const texts = { ...textsOf(before), running_jobs: " ", queued_jobs: "7", storage_bytes: "0.1" };
  expect(changeOf(before, texts)).toEqual({
    paths: ["running_jobs", "queued_jobs", "storage_bytes"],
    quota: { userId: "usr_1", etag: "e", queuedJobs: 7, storageBytes: 100_000_000n },
  });
});
