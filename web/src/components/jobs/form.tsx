"use client";

import { type FormEvent, type ReactNode, type RefObject, useEffect, useRef } from "react";
import type { Problem as Refusal } from "@/lib/errors";
import { untoldOf } from "@/lib/jobs/fields";
import { Button, Problem } from "../ui";

/** For a form: whoever works by keyboard is taken to what is wrong. */
export function useFocusOnMistake(problem: Refusal | undefined): RefObject<HTMLFormElement | null> {
  const form = useRef<HTMLFormElement>(null);
  useEffect(() => {
    if (problem) form.current?.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
  }, [problem]);
  return form;
}

/** What no field of a form says of its problem. */
export function Untold({ title, texts }: { title: string; texts: readonly string[] }) {
  if (texts.length === 0) return null;
  return (
    <Problem title={title}>
      {texts.map((text) => (
        <p key={text} className="break-words">
          {text}
        </p>
      ))}
    </Problem>
  );
}

/** The form of a job that begins with another one: its verb, what is wrong, and what stands between. */
export function AfterForm({
  kind,
  verb,
  about,
  problem,
  known,
  isBusy,
  isIncomplete,
  onSubmit,
  children,
}: {
  kind: "evaluation" | "merge";
  verb: string;
  /** What comes of it. */
  about: string;
  problem: Refusal | undefined;
  /** The fields of the request that tell at their own place what is wrong with them. */
  known: readonly string[];
  isBusy: boolean;
  /** Whether something has to be filled in or mended before. */
  isIncomplete: boolean;
  onSubmit: () => void;
  children: ReactNode;
}) {
  const form = useFocusOnMistake(problem);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onSubmit();
  };
  return (
    <form ref={form} onSubmit={submit} noValidate className="space-y-5">
      <p className="max-w-prose text-sm text-ink-soft">{about}</p>
      {children}
      <Untold title={`The ${kind} was not accepted`} texts={problem ? untoldOf(problem, known) : []} />
      <Button type="submit" look="primary" isBusy={isBusy} disabled={isIncomplete}>
        {verb}
      </Button>
    </form>
  );
}
