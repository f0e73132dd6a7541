// Whether the service is there, as far as the last answer told; and asking again until it is.
import type { Query, QueryCache } from "@tanstack/react-query";
import { isPassing, isUnreachable } from "./errors";

const AGAIN_MS = 5_000;

/** How often what could not be read is asked for anew, for as long as somebody looks; `false` where that would mend nothing. */
export function untilRead(query: { state: Pick<Query["state"], "status" | "error"> }): number | false {
  return query.state.status === "error" && isPassing(query.state.error) ? AGAIN_MS : false;
}

/** Tells whether calls are lost: from the first that no service answered to the next that one did. */
export class Reachability {
  #isLost = false;

  constructor(private readonly cache: Pick<QueryCache, "subscribe">) {}

  subscribe = (listener: () => void): (() => void) =>
    this.cache.subscribe((event) => {
      if (event.type !== "updated") return;
      const { action } = event;
      const before = this.#isLost;
      if (action.type === "success") this.#isLost = false;
      else if (action.type === "failed" || action.type === "error") this.#isLost = isUnreachable(action.error);
      if (this.#isLost !== before) listener();
    });

  isLost = (): boolean => this.#isLost;
}
