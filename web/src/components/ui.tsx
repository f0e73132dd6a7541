// The small parts that every page is made of.
import { AlertTriangle, Loader2 } from "lucide-react";
import type { ButtonHTMLAttributes, InputHTMLAttributes, ReactNode } from "react";
import { type RefObject, useEffect, useId, useRef } from "react";
import { sentence } from "@/lib/format";

export function cx(...names: (string | false | undefined)[]): string {
  return names.filter(Boolean).join(" ");
}

type Look = "primary" | "plain" | "quiet" | "danger";

const LOOKS: Record<Look, string> = {
  primary: "bg-accent text-accent-ink hover:brightness-110",
  plain: "border border-line-strong bg-panel hover:bg-raised",
  quiet: "text-ink-soft hover:bg-raised hover:text-ink",
  danger: "border border-bad bg-panel text-bad hover:bg-bad-soft",
};

const BUTTON =
  "inline-flex min-h-9 items-center justify-center gap-2 rounded-lg px-3.5 py-1.5 text-sm font-medium transition disabled:cursor-not-allowed disabled:opacity-60";

export function buttonClass(look: Look = "plain"): string {
  return cx(BUTTON, LOOKS[look]);
}

interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  look?: Look;
  isBusy?: boolean;
}

export function Button({ look = "plain", isBusy = false, className, children, disabled, ...rest }: ButtonProps) {
  return (
    <button
      type="button"
      {...rest}
      disabled={disabled || isBusy}
      aria-busy={isBusy || undefined}
      className={cx(buttonClass(look), className)}
    >
      {isBusy && <Loader2 aria-hidden className="size-4 animate-spin" />}
      {children}
    </button>
  );
}

interface FieldProps extends InputHTMLAttributes<HTMLInputElement> {
  label: string;
  hint?: ReactNode;
  problem?: string | undefined;
}

export const INPUT = "w-full rounded-lg border border-line-strong bg-panel px-3 py-2 text-ink aria-invalid:border-bad";

export function Field({ label, hint, problem, className, ...rest }: FieldProps) {
  const id = useId();
  return (
    <div className={className}>
      <label htmlFor={id} className="mb-1 block text-sm font-medium">
        {label}
      </label>
      <input
        id={id}
        {...rest}
        aria-invalid={problem ? true : undefined}
        aria-describedby={hint || problem ? `${id}-note` : undefined}
        className={INPUT}
      />
      <Note id={`${id}-note`} hint={hint} problem={problem} />
    </div>
  );
}

interface SelectFieldProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
  hint?: ReactNode;
  problem: string | undefined;
  /** The options. */
  children: ReactNode;
}

/** A choice of many, with its name above it. */
export function SelectField({ label, value, onChange, hint, problem, children }: SelectFieldProps) {
  const id = useId();
  return (
    <div>
      <label htmlFor={id} className="mb-1 block text-sm font-medium">
        {label}
      </label>
      <select
        id={id}
        className={INPUT}
        value={value}
        onChange={(event) => onChange(event.target.value)}
        aria-invalid={problem ? true : undefined}
        aria-describedby={hint || problem ? `${id}-note` : undefined}
      >
        {children}
      </select>
      <Note id={`${id}-note`} hint={hint} problem={problem} />
    </div>
  );
}

function Note({ id, hint, problem }: { id: string; hint?: ReactNode; problem?: string | undefined }) {
  if (!problem && !hint) return null;
  return (
    <p id={id} className="mt-1 text-sm text-ink-soft">
      {problem && <span className="block text-bad">{sentence(problem)}</span>}
      {hint}
    </p>
  );
}

/** A choice of few, in one line with its name. */
export function Picker<Value extends string>({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: Value;
  /** What is shown, by value. */
  options: Readonly<Record<Value, string>>;
  onChange: (value: Value) => void;
}) {
  const id = useId();
  return (
    <div className="flex items-center gap-2 text-sm">
      <label htmlFor={id} className="text-ink-soft">
        {label}
      </label>
      <select
        id={id}
        className="rounded-lg border border-line-strong bg-panel px-2 py-1 text-ink"
        value={value}
        onChange={(event) => onChange(event.target.value as Value)}
      >
        {(Object.entries(options) as [Value, string][]).map(([name, shown]) => (
          <option key={name} value={name}>
            {shown}
          </option>
        ))}
      </select>
    </div>
  );
}

/** For a `details` that opens by itself when something in it must be seen; only who reads it closes it again. */
export function useOpenedBy(isUrgent: boolean): RefObject<HTMLDetailsElement | null> {
  const ref = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    if (isUrgent && ref.current) ref.current.open = true;
  }, [isUrgent]);
  return ref;
}

export function Panel({
  title,
  action,
  children,
  className,
}: {
  title?: ReactNode;
  action?: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  return (
    <section className={cx("rounded-xl border border-line bg-panel p-5", className)}>
      {(title || action) && (
        <div className="mb-4 flex flex-wrap items-center justify-between gap-3">
          <h2 className="text-base font-semibold">{title}</h2>
          {action}
        </div>
      )}
      {children}
    </section>
  );
}

export type Tone = "good" | "warn" | "bad" | "accent" | "plain";

const TONES: Record<Tone, string> = {
  good: "bg-good-soft text-good",
  warn: "bg-warn-soft text-warn",
  bad: "bg-bad-soft text-bad",
  accent: "bg-accent-soft text-accent",
  plain: "bg-raised text-ink-soft",
};

export function Chip({ tone, isLive = false, children }: { tone: Tone; isLive?: boolean; children: ReactNode }) {
  return (
    <span
      className={cx(
        "inline-flex max-w-full items-center gap-1.5 rounded-full px-2.5 py-0.5 text-xs font-semibold whitespace-nowrap",
        TONES[tone],
      )}
    >
      {isLive && <span aria-hidden className="size-1.5 shrink-0 animate-pulse rounded-full bg-current" />}
      <span dir="auto" className="truncate">
        {children}
      </span>
    </span>
  );
}

export function Bar({
  label,
  value,
  max,
  tone = "accent",
}: {
  label: string;
  value: number;
  max: number;
  tone?: "accent" | "good" | "bad";
}) {
  const share = max > 0 ? Math.min(value / max, 1) : 0;
  const colour = { accent: "bg-accent", good: "bg-good", bad: "bg-bad" }[tone];
  return (
    <div
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(share * 100)}
      className="h-2 overflow-hidden rounded-full bg-raised"
    >
      <div
        className={cx("h-full origin-left rounded-full transition-transform", colour)}
        style={{ transform: `scaleX(${share})` }}
      />
    </div>
  );
}

export function Problem({ title, children, action }: { title?: string; children: ReactNode; action?: ReactNode }) {
  return (
    <div role="alert" className="flex flex-wrap items-start gap-3 rounded-lg bg-bad-soft px-4 py-3 text-sm text-bad">
      <AlertTriangle aria-hidden className="mt-0.5 size-4 shrink-0" />
      <div className="min-w-0 flex-1">
        {title && <p className="font-semibold">{title}</p>}
        <div>{children}</div>
      </div>
      {action}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="rounded-xl border border-dashed border-line-strong px-6 py-12 text-center">
      <p className="font-medium">{title}</p>
      {children && <div className="mx-auto mt-2 max-w-prose text-sm text-ink-soft">{children}</div>}
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <p role="status" className="flex items-center gap-2 py-8 text-sm text-ink-soft">
      <Loader2 aria-hidden className="size-4 animate-spin" />
      {what}
    </p>
  );
}

export function PageTitle({
  title,
  chip,
  children,
  action,
}: {
  title: string;
  chip?: ReactNode;
  children?: ReactNode;
  action?: ReactNode;
}) {
  return (
    <div className="mb-6 flex flex-wrap items-start justify-between gap-4">
      <div className="min-w-0">
        <div className="flex flex-wrap items-center gap-3">
          <h1 dir="auto" className="min-w-0 text-2xl font-semibold tracking-tight break-words">
            {title}
          </h1>
          {chip}
        </div>
        {children && <div className="mt-1 text-sm text-ink-soft">{children}</div>}
      </div>
      {action && <div className="flex flex-wrap gap-2">{action}</div>}
    </div>
  );
}

export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="grid grid-cols-2 gap-x-6 gap-y-3 sm:grid-cols-3 lg:grid-cols-6">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt className="text-xs text-ink-soft">{name}</dt>
          <dd className="font-medium tabular-nums">{value}</dd>
        </div>
      ))}
    </dl>
  );
}
