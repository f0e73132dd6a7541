// What only admins may do. The services refuse everybody else; the pages merely do not show it to them.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { Role, type User } from "@/gen/reeltune/auth/v1/user_pb";
import { UserService } from "@/gen/reeltune/auth/v1/user_service_pb";
import { UsageService } from "@/gen/reeltune/catalog/v1/usage_service_pb";
import type { Quota, QuotaSchema } from "@/gen/reeltune/scheduler/v1/quota_pb";
import { QuotaService } from "@/gen/reeltune/scheduler/v1/quota_service_pb";
import { WorkerService } from "@/gen/reeltune/scheduler/v1/worker_service_pb";
import { transport } from "./clients";
import { hasPart } from "./filter";

export const users = createClient(UserService, transport);
export const quotas = createClient(QuotaService, transport);
export const usage = createClient(UsageService, transport);
export const workers = createClient(WorkerService, transport);

/** Whom limits are for that have none of their own. */
export const DEFAULT = "default";
const BYTES_OF_GB = 1e9;
/** What a message holds. */
export const MOST_COUNT = 2 ** 31 - 1;
/** As the contract bounds it. */
export const MOST_HOURS = 1_000_000;
/** What a page computes with exactly, in GB. */
export const MOST_GB = Math.floor(Number.MAX_SAFE_INTEGER / BYTES_OF_GB);

/** Limits as they are typed; empty for none. */
export interface LimitTexts {
  running_jobs: string;
  queued_jobs: string;
  device_hours_per_day: string;
  storage_bytes: string;
}

export function isAdmin(user: Pick<User, "roles">): boolean {
  return user.roles.includes(Role.ADMIN);
}

/** Returns the filter for users whose name, or address where there is an `@` in it, has this part. */
export function userFilter(part: string, isBarredOnly: boolean): string {
  const field = part.includes("@") ? "email" : "username";
  return [hasPart(field, part), isBarredOnly ? "disabled = true" : ""].filter(Boolean).join(" AND ");
}

export function textsOf(quota: Quota): LimitTexts {
  const { runningJobs, queuedJobs, deviceHoursPerDay, storageBytes } = quota;
  return {
    running_jobs: String(runningJobs ?? ""),
    queued_jobs: String(queuedJobs ?? ""),
    device_hours_per_day: String(deviceHoursPerDay ?? ""),
    storage_bytes: storageBytes === undefined ? "" : String(Number(storageBytes) / BYTES_OF_GB),
  };
}

/** Returns what of the limits was changed, and the quota with the new values: an empty text lifts a limit. */
export function changeOf(
  quota: Quota,
  texts: LimitTexts,
): { quota: MessageInitShape<typeof QuotaSchema>; paths: string[] } {
  const before = textsOf(quota);
  const paths = (Object.keys(before) as (keyof LimitTexts)[]).filter((name) => texts[name].trim() !== before[name]);
  const value = (name: keyof LimitTexts) => (texts[name].trim() ? Number(texts[name]) : undefined);
  const [runningJobs, queuedJobs, hours, gigabytes] = [
    value("running_jobs"),
    value("queued_jobs"),
    value("device_hours_per_day"),
    value("storage_bytes"),
  ];
  return {
    quota: {
      userId: quota.userId,
      etag: quota.etag,
      ...(runningJobs === undefined ? {} : { runningJobs }),
      ...(queuedJobs === undefined ? {} : { queuedJobs }),
      ...(hours === undefined ? {} : { deviceHoursPerDay: hours }),
      ...(gigabytes === undefined ? {} : { storageBytes: BigInt(Math.round(gigabytes * BYTES_OF_GB)) }),
    },
    paths,
  };
}
