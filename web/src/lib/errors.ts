// What went wrong, in the words of the server: its messages say what is wrong, where, and what to do next.
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "@/gen/google/rpc/error_details_pb";
import { sentence } from "./format";

export interface Problem {
  /** The stable reason, such as `DATASET_EXISTS`; empty where there is none. */
  reason: string;
  message: string;
  /** What is wrong with each field of the request, by its path. */
  fields: Record<string, string>;
  /** Milliseconds after which another try makes sense. */
  retryAfterMs?: number;
}

const UNTOLD = "something failed, and the service did not say what";
const UNREACHABLE = "The service cannot be reached. Check that it runs and that you are connected, then try again.";

export function explain(error: unknown): Problem {
  if (!(error instanceof ConnectError)) {
    const message = error instanceof Error ? error.message : String(error);
    return { reason: "", message, fields: {} };
  }
  const [info] = error.findDetails(ErrorInfoSchema);
  const [bad] = error.findDetails(BadRequestSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  const fields = Object.fromEntries((bad?.fieldViolations ?? []).map((one) => [one.field, one.description]));
  const isLost = !info && (error.code === Code.Unavailable || error.code === Code.Unknown);
  const delay = retry?.retryDelay;
  return {
    reason: info?.reason ?? "",
    message: isLost ? UNREACHABLE : sentence(error.rawMessage || UNTOLD),
    fields,
    ...(delay ? { retryAfterMs: Number(delay.seconds) * 1000 + delay.nanos / 1e6 } : {}),
  };
}

export function reasonOf(error: unknown): string {
  return explain(error).reason;
}

/** Whether a call came to nothing because the connection, or what answers at its other end, is away. */
export function isUnreachable(error: unknown): boolean {
  if (!(error instanceof ConnectError)) return error instanceof TypeError;
  return error.code === Code.Unavailable || (error.code === Code.Unknown && !reasonOf(error));
}

/** Whether the same call may succeed a little later without anything being done about it. */
export function isPassing(error: unknown): boolean {
  if (!(error instanceof ConnectError)) return error instanceof TypeError;
  const lasting = [
    Code.InvalidArgument,
    Code.NotFound,
    Code.AlreadyExists,
    Code.PermissionDenied,
    Code.FailedPrecondition,
    Code.Unauthenticated,
    Code.Unimplemented,
    Code.OutOfRange,
  ];
  return (
    !lasting.includes(error.code) && !["QUOTA_EXCEEDED", "FILE_TOO_LARGE", "TOO_MANY_FILES"].includes(reasonOf(error))
  );
}
