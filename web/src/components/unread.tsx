import type { UseQueryResult } from "@tanstack/react-query";
import { explain, isUnreachable } from "@/lib/errors";
import { Button, Loading, Problem } from "./ui";

function said(reason: Error): string {
  return isUnreachable(reason) ? "The service cannot be reached." : explain(reason).message;
}

/** In place of what a query has not brought: that it is on its way, or why it failed and a way to ask again. */
export function Unread({
  of,
  what,
}: {
  of: Pick<UseQueryResult, "isError" | "error" | "refetch" | "failureReason">;
  what: string;
}) {
  if (!of.isError) return <Loading what={of.failureReason ? `${said(of.failureReason)} Trying again …` : what} />;
  return (
    <Problem action={<Button onClick={() => void of.refetch()}>Try again</Button>}>{explain(of.error).message}</Problem>
  );
}
