// The fields of a new job: what they mean, and what they are when nobody fills them in.
import type { JsonValue } from "@bufbuild/protobuf";
import type { Problem } from "@/lib/errors";

export interface JobField {
  /** Place in `TrainingParameters`, as its JSON spells it. */
  path: string;
  label: string;
  hint: string;
  /** The contract's own default, which the job page shows again as the value in force. */
  byDefault: string;
  isInteger?: boolean;
  /** The least and the most that it may be; 0 and what a message can hold unless given. */
  least?: number;
  most?: number;
}

/** The most that an `int32` of a message holds: beyond it a request cannot even be written. */
const MOST_INT32 = 2 ** 31 - 1;

export const FIELDS: readonly JobField[] = [
  {
    path: "optimization.epochs",
    label: "Epochs",
    hint: "Passes over the training rows. Ignored when steps are given.",
    byDefault: "3",
    isInteger: true,
  },
  {
    path: "optimization.maxSteps",
    label: "Steps",
    hint: "Optimizer steps instead of epochs; 0 counts by epochs.",
    byDefault: "0",
    isInteger: true,
  },
  {
    path: "optimization.learningRate",
    label: "Learning rate",
    hint: "Its peak. Too high and the loss jumps; too low and it crawls.",
    byDefault: "0.0002",
  },
  {
    path: "optimization.batchSize",
    label: "Samples at once",
    hint: "More is steadier, and takes more memory.",
    byDefault: "4",
    isInteger: true,
  },
  {
    path: "optimization.gradientAccumulationSteps",
    label: "Batches in a step",
    hint: "Steadier steps for no more memory, in more time.",
    byDefault: "1",
    isInteger: true,
  },
  {
    path: "lora.rank",
    label: "Rank of the adapter",
    hint: "How much it can learn: 8 to 64 is usual.",
    byDefault: "16",
    isInteger: true,
  },
  { path: "lora.alpha", label: "Alpha", hint: "The adapter's weight is alpha / rank.", byDefault: "32" },
  {
    path: "sampling.maxFrames",
    label: "Frames of a clip",
    hint: "What the model sees of each clip; costs memory and time.",
    byDefault: "8",
    isInteger: true,
  },
  {
    path: "sampling.fps",
    label: "Frames a second",
    hint: "0 spreads the frames evenly over the clip.",
    byDefault: "0",
  },
  {
    path: "checkpointEverySteps",
    label: "Steps between checkpoints",
    hint: "What is lost at most when a trainer dies. 0: one at the end.",
    byDefault: "50",
    isInteger: true,
  },
  {
    path: "evaluateEverySteps",
    label: "Steps between evaluations",
    hint: "The loss on held-out rows. 0: once, at the end.",
    byDefault: "0",
    isInteger: true,
  },
  {
    path: "optimization.seed",
    label: "Seed",
    hint: "The same seed gives the same order and the same adapter to begin with.",
    byDefault: "0",
    isInteger: true,
    most: 2 ** 32 - 1,
  },
];

/** Of the request itself, not of its parameters. */
export const REQUEST_FIELDS: readonly JobField[] = [
  {
    path: "deviceCount",
    label: "Devices",
    hint: "Of one trainer, that train together: each takes a share of every step.",
    byDefault: "1",
    isInteger: true,
  },
  {
    path: "priority",
    label: "Priority",
    hint: "Among your own jobs: higher ones go first.",
    byDefault: "0",
    isInteger: true,
    least: -100,
    most: 100,
  },
];

/** Returns what is at a place of `TrainingParameters` as JSON; nothing where there is none. */
export function placeIn(parameters: JsonValue, path: string): JsonValue | undefined {
  let found: JsonValue | undefined = parameters;
  for (const name of path.split(".")) {
    if (found === null || found === undefined || typeof found !== "object" || Array.isArray(found)) return undefined;
    found = found[name];
  }
  return found;
}

/** Returns the text or number at a field's place in `TrainingParameters` as JSON; nothing where there is none. */
export function valueAt(parameters: JsonValue, path: string): string | undefined {
  const found = placeIn(parameters, path);
  return typeof found === "number" || typeof found === "string" ? String(found) : undefined;
}

/** Returns what is wrong with a field's text, or nothing. The service checks it all again. */
export function mistake(field: JobField, text: string): string | undefined {
  const trimmed = text.trim();
  if (!trimmed) return undefined;
  const value = Number(trimmed);
  if (!Number.isFinite(value)) return "This is not a number";
  if (field.isInteger && !Number.isInteger(value)) return "This must be a whole number";
  const { least = 0, most = field.isInteger ? MOST_INT32 : Infinity } = field;
  if (value < least) return least === 0 ? "This must not be negative" : `This must be at least ${least}`;
  if (value > most) return `This must be at most ${most.toLocaleString("en")}`;
  return undefined;
}

/** What is wrong with a number from `least` to `most` that may be left out; a whole one unless it is told otherwise. */
export function mistakeIn(text: string, least: number, most: number, isInteger = true): string | undefined {
  return mistake({ path: "", label: "", hint: "", byDefault: "", isInteger, least, most }, text);
}

/** Returns `{ [name]: 8 }` for `8`, and nothing for what is left out. */
export function numberAs<Name extends string>(name: Name, text: string): { [key in Name]?: number } {
  return (text.trim() ? { [name]: Number(text) } : {}) as { [key in Name]?: number };
}

/** What a form must say beside its fields: all of a problem that none of the fields in `known` says. */
export function untoldOf({ message, fields }: Pick<Problem, "message" | "fields">, known: readonly string[]): string[] {
  const all = Object.entries(fields);
  const others = all.filter(([name]) => !known.includes(name));
  // Where nothing is told at a field, the message says it all.
  return others.length === all.length ? [message] : others.map(([name, text]) => `${name}: ${text}`);
}

/** The form's name of a field that the service complains about: `parameters.lora.rank` is `lora.rank`. */
export function fieldOf(violation: string): string {
  return violation.replace(/^parameters\./, "").replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
