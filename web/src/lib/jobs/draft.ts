// What somebody has filled in for a new job, and the request that it makes. A draft that begins with another job holds all of that job's request.
import { type JsonObject, type JsonValue, toJson } from "@bufbuild/protobuf";
import { TrainingJobSchema, type TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { CreateTrainingJobRequestSchema } from "@/gen/reeltune/scheduler/v1/training_service_pb";
import { FIELDS, REQUEST_FIELDS } from "./fields";
import { shownValue } from "./parameters";

/** Text by the form's own names. */
export type Draft = Readonly<Record<string, string>>;

/** A value of the request that the form has no field for. */
export interface Carried {
  /** Place in `CreateTrainingJobRequest`, as its JSON spells it. */
  path: string;
  /** The same as the job's page and the command line spell it: `lora.use_rslora`. */
  name: string;
  value: JsonValue;
  /** The value in words. */
  shown: string;
}

/** The form's names of the fields of the request. */
const PLACES: ReadonlyMap<string, string> = new Map([
  ["modelId", "model"],
  ["datasetId", "dataset"],
  ["deviceClass", "deviceClass"],
  ["parameters.preset", "preset"],
  ...REQUEST_FIELDS.map(({ path }): [string, string] => [path, path]),
  ...FIELDS.map(({ path }): [string, string] => [`parameters.${path}`, path]),
]);
const ARE_NUMBERS = new Set([...REQUEST_FIELDS, ...FIELDS].map(({ path }) => path));

/** Of the request, what belongs to one job alone. */
const NOT_CARRIED = ["name", "requestId"];

/** What is there as a whole or not at all: half of it would mean something else. */
const WHOLE = new Set([
  "parameters.lora.rankAllocation",
  "parameters.earlyStopping",
  "parameters.samplePredictions",
  "parameters.rehearsal",
]);

/** Where a draft keeps what the form has no field for: JSON of values by their paths. */
const ALSO = "also";

/** Returns the draft that makes a job with all that this one was given, its name excepted. */
export function draftLike(job: TrainingJob): Draft {
  const stated = toJson(TrainingJobSchema, job) as JsonObject;
  const draft: Record<string, string> = {};
  const also: JsonObject = {};
  // Field by field of the request as its contract has them: one that is added later is carried, too.
  for (const { jsonName } of CreateTrainingJobRequestSchema.fields) {
    const value = stated[jsonName];
    if (value === undefined || NOT_CARRIED.includes(jsonName)) continue;
    for (const [path, leaf] of leaves(value, jsonName)) {
      const place = PLACES.get(path);
      if (place) draft[place] = String(leaf);
      else also[path] = leaf;
    }
  }
  return Object.keys(also).length > 0 ? { ...draft, [ALSO]: JSON.stringify(also) } : draft;
}

/** Returns what a draft has beside the form's fields, in the order of the contract. */
export function carriedBy(draft: Draft): Carried[] {
  return Object.entries(alsoOf(draft)).map(([path, value]) => ({
    path,
    name: storedName(path),
    value,
    shown: shownValue(value),
  }));
}

/** Returns what remains beside the form's fields, as the draft keeps it, when some of it is taken away. */
export function without(draft: Draft, paths: readonly string[]): { also: string } {
  const rest = Object.entries(alsoOf(draft)).filter(([path]) => !paths.includes(path));
  return { [ALSO]: JSON.stringify(Object.fromEntries(rest)) };
}

/** Returns `CreateTrainingJobRequest` as JSON; what is left empty is left out. */
export function requestOf(draft: Draft): JsonObject {
  const request: JsonObject = {};
  for (const name of NOT_CARRIED) if (draft[name]?.trim()) request[name] = draft[name].trim();
  for (const [path, place] of PLACES) {
    const text = draft[place]?.trim();
    if (text && !isIdle(place, draft)) put(request, path, ARE_NUMBERS.has(place) ? Number(text) : text);
  }
  for (const [path, value] of Object.entries(alsoOf(draft))) put(request, path, value);
  return request;
}

/** Epochs do not count where steps are given, and the service takes one of them only. */
function isIdle(place: string, draft: Draft): boolean {
  return place === "optimization.epochs" && Number(draft["optimization.maxSteps"] ?? 0) > 0;
}

function alsoOf(draft: Draft): JsonObject {
  return JSON.parse(draft[ALSO] ?? "{}") as JsonObject;
}

/** Each value of a message by its path; one without any is itself a value, as it may matter that it is there. */
function leaves(value: JsonValue, path: string): [string, JsonValue][] {
  const isMessage = value !== null && typeof value === "object" && !Array.isArray(value);
  if (!isMessage || WHOLE.has(path) || Object.keys(value).length === 0) return [[path, value]];
  return Object.entries(value).flatMap(([name, inner]) => leaves(inner, `${path}.${name}`));
}

function put(request: JsonObject, path: string, value: JsonValue): void {
  const names = path.split(".");
  const last = names.pop()!;
  let place = request;
  for (const name of names) place = (place[name] ??= {}) as JsonObject;
  place[last] = value;
}

function storedName(path: string): string {
  return path.replace(/^parameters\./, "").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
