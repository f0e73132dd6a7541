// A job's values in force, as a list.
import { type JsonValue, toJson } from "@bufbuild/protobuf";
import { PostTrainingParametersSchema } from "@/gen/reeltune/scheduler/v1/post_training_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { TrainingParametersSchema } from "@/gen/reeltune/scheduler/v1/training_parameters_pb";

const AS_STORED = { alwaysEmitImplicit: true, useProtoFieldName: true };

/** Each value by its place, such as `lora.rank`, in the order of the contract. */
export function valuesOf(job: TrainingJob): [string, string][] {
  return [
    ...(job.postTraining ? flat(toJson(PostTrainingParametersSchema, job.postTraining, AS_STORED)) : []),
    ...(job.parameters ? flat(toJson(TrainingParametersSchema, job.parameters, AS_STORED)) : []),
  ];
}

function flat(value: JsonValue, prefix = ""): [string, string][] {
  if (Array.isArray(value)) return value.length ? [[prefix, value.map((one) => word(one)).join(", ")]] : [];
  if (value === null || typeof value !== "object") return [[prefix, word(value)]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name));
}

/** A value in words: lists by their items, messages by their fields. */
export function shownValue(value: JsonValue): string {
  if (Array.isArray(value)) return value.map(shownValue).join(", ");
  if (value === null || typeof value !== "object") return word(value);
  const inner = Object.entries(value).map(([name, one]) => `${spaced(name)} ${shownValue(one)}`);
  return inner.length > 0 ? inner.join(", ") : "with its defaults";
}

function spaced(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}

/** The names of enumerations repeat their type: `QUANTIZATION_TYPE_NF4`. */
function word(value: JsonValue): string {
  const text = String(value);
  if (text === "COMPUTE_TYPE_UNSPECIFIED") return "by device";
  return /^[A-Z]+(_[A-Z0-9]+)+$/.test(text)
    ? text
        .toLowerCase()
        .replaceAll("_", " ")
        .replace(
          /^(quantization type|compute type|learning rate schedule|optimizer|module group|rank allocation|evaluation control|merge weights|device class|encoder cache|frame placement|lora initialization|base sharing|misbehavior kind|preset) /,
          "",
        )
    : text;
}
