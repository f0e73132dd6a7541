// Amounts as people read them.
const UNITS = ["B", "KB", "MB", "GB", "TB"];

/** `1.4 MB`, `812 B`. */
export function bytes(amount: number | bigint): string {
  let value = Number(amount);
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${UNITS[unit]}`;
}

/** `3 clips`, `1 clip`, `1,204 rows`. */
export function count(amount: number | bigint, noun: string): string {
  return `${Number(amount).toLocaleString("en")} ${noun}${Number(amount) === 1 ? "" : "s"}`;
}

/** `4.2 s`, `3 min 12 s`, `2 h 05 min`. */
export function duration(seconds: number): string {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

/** `just now`, `4 min ago`, `3 h ago`, and then the date. */
export function ago(time: Date, now: Date = new Date()): string {
  const seconds = (now.getTime() - time.getTime()) / 1000;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return time.toLocaleDateString("en", { year: "numeric", month: "short", day: "numeric" });
}

/** The last word of an enumeration's name: `DATASET_STATE_READY` is `ready`. */
export function word(name: string | undefined, prefix: string): string {
  return (name ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");
}

/** `must be set` as a sentence: `Must be set`. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** `2.1 B parameters`, `812 K parameters`. */
export function parameters(amount: number | bigint): string {
  const value = Number(amount);
  const [scale, unit] = value >= 1e9 ? [1e9, "B"] : value >= 1e6 ? [1e6, "M"] : [1e3, "K"];
  return `${(value / scale).toFixed(value / scale < 10 ? 1 : 0)} ${unit} parameters`;
}

/** A measured value in few digits: `0.4213`, `2.0e-4`, `1,204`. */
export function measured(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4)));
}
