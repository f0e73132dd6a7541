"use client";

import { type ReactNode, useRef } from "react";
import { useAttempt } from "@/lib/attempt";
import { Dialog } from "../dialog";
import { Button, Problem } from "../ui";

/** A button that asks before it does what it says; how that fails is told where it was asked. */
export function ConfirmButton({
  label,
  of,
  title,
  verb,
  look = "plain",
  work,
  children,
}: {
  label: string;
  /** Whom or what it is about, for those who hear one button of many. */
  of: string;
  title: string;
  /** What is done, on the button that does it. */
  verb: string;
  look?: "plain" | "danger";
  work: () => Promise<void>;
  /** What will become of it. */
  children: ReactNode;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const { isBusy, problem, attempt, forget } = useAttempt();
  const act = () =>
    void attempt(async () => {
      await work();
      dialog.current?.close();
    });
  return (
    <>
      <Button
        look={look}
        aria-label={`${label}: ${of}`}
        aria-haspopup="dialog"
        onClick={() => (forget(), dialog.current?.showModal())}
      >
        {label}
      </Button>
      <Dialog ref={dialog} title={title}>
        <div className="mb-4 text-sm text-ink-soft">{children}</div>
        {problem && <Problem title="It was not done">{problem.message}</Problem>}
        <div className="mt-4 flex justify-end gap-2">
          <Button look="quiet" onClick={() => dialog.current?.close()}>
            Leave it as it is
          </Button>
          <Button look={look === "danger" ? "danger" : "primary"} isBusy={isBusy} onClick={act}>
            {verb}
          </Button>
        </div>
      </Dialog>
    </>
  );
}
