"use client";

import { useState } from "react";
import { explain, type Problem } from "./errors";

/** Runs what a button does: one at a time, and how it failed. */
export function useAttempt() {
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem>();
  async function attempt(work: () => Promise<void>): Promise<void> {
    setBusy(true);
    setProblem(undefined);
    try {
      await work();
    } catch (error) {
      setProblem(explain(error));
    }
    setBusy(false);
  }
  return { isBusy, problem, attempt, forget: () => setProblem(undefined) };
}
