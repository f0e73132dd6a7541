"use client";

import { X } from "lucide-react";
import { useRef } from "react";
import { count, sentence } from "@/lib/format";
import { type Carried, carriedBy, type Draft, without } from "@/lib/jobs/draft";
import { Button } from "../ui";

/** What a new job has of the one that it began with, and no field shows: nothing goes along unseen. */
export function CarriedValues({
  draft,
  byDefault,
  complaints,
  onChange,
}: {
  draft: Draft;
  /** What a value would be if it were left out, in words; nothing where that is not known. */
  byDefault: (value: Carried) => string | undefined;
  /** What the service says against values, by their paths within the parameters. */
  complaints: Readonly<Record<string, string>>;
  onChange: (part: { also: string }) => void;
}) {
  const all = carriedBy(draft);
  const heading = useRef<HTMLHeadingElement>(null);
  if (all.length === 0) return null;
  const isUsual = (one: Carried) => byDefault(one) === one.shown && !complaintOf(one, complaints);
  const usual = all.filter(isUsual);
  const others = all.filter((one) => !isUsual(one));
  const remove = (values: readonly Carried[]) => {
    const paths = values.map((one) => one.path);
    // Its button goes with it; whoever works by keyboard stays at the list.
    heading.current?.focus();
    onChange(without(draft, paths));
  };
  return (
    <section aria-labelledby="also" className="mt-6 border-t border-line pt-5">
      <div className="flex flex-wrap items-center justify-between gap-2">
        <h3 id="also" ref={heading} tabIndex={-1} className="text-sm font-medium">
          Also, as in the job that it is like
        </h3>
        <Button look="quiet" onClick={() => remove(all)}>
          Remove all
        </Button>
      </div>
      <List values={others} complaints={complaints} onRemove={(one) => remove([one])} />
      {usual.length > 0 && (
        <details className="mt-3 text-sm">
          <summary className="text-ink-soft">
            {`${others.length > 0 ? "and " : ""}${count(usual.length, "value")} that would be the same if left out`}
          </summary>
          <List values={usual} complaints={complaints} onRemove={(one) => remove([one])} />
        </details>
      )}
    </section>
  );
}

function List({
  values,
  complaints,
  onRemove,
}: {
  values: readonly Carried[];
  complaints: Readonly<Record<string, string>>;
  onRemove: (value: Carried) => void;
}) {
  return (
    <ul className="mt-2 flex flex-wrap gap-2 text-sm empty:hidden">
      {values.map((one) => {
        const complaint = complaintOf(one, complaints);
        return (
          <li
            key={one.path}
            className="flex max-w-full items-center gap-2 rounded-lg border border-line-strong bg-ground py-1 pr-1 pl-3"
          >
            <span className="min-w-0">
              <span className="font-mono text-[0.8125rem] break-all text-ink-soft">{one.name}</span>{" "}
              <span className="font-medium break-words">{one.shown}</span>
              {complaint && <span className="block text-bad">{sentence(complaint)}</span>}
            </span>
            <button
              type="button"
              aria-label={`Remove ${one.name}`}
              title="Remove"
              className="rounded p-1 text-ink-soft hover:bg-raised hover:text-ink"
              onClick={() => onRemove(one)}
            >
              <X aria-hidden className="size-4" />
            </button>
          </li>
        );
      })}
    </ul>
  );
}

/** What is said of a value or of something within it. */
function complaintOf({ path }: Carried, complaints: Readonly<Record<string, string>>): string | undefined {
  const own = path.replace(/^parameters\./, "");
  const found = Object.entries(complaints).find(([name]) => isWithin(name, own));
  return found && (found[0] === own ? found[1] : `${found[0].slice(own.length + 1)}: ${found[1]}`);
}

/** Whether a complaint's field is this one or within it: `lora.layerPatterns[0].rank`. */
export function isWithin(name: string, path: string): boolean {
  return name === path || name.startsWith(`${path}.`) || name.startsWith(`${path}[`);
}
