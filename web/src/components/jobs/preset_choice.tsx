"use client";

import { toJson } from "@bufbuild/protobuf";
import { useQuery } from "@tanstack/react-query";
import { Preset } from "@/gen/reeltune/scheduler/v1/training_options_pb";
import type { PresetDescription } from "@/gen/reeltune/scheduler/v1/preset_service_pb";
import { TrainingParametersSchema } from "@/gen/reeltune/scheduler/v1/training_parameters_pb";
import { presets } from "@/lib/clients";
import { sentence, word } from "@/lib/format";
import { type JobField, placeIn, valueAt } from "@/lib/jobs/fields";
import { shownValue } from "@/lib/jobs/parameters";
import { SelectField } from "../ui";

interface Start {
  presets: { name: string; title: string; description: string }[];
  /** What a field has when nobody fills it in. */
  valueOf: (field: JobField) => string;
  /** What stands at a place of the request, such as `parameters.lora.dropout`, when it is left out, in words; nothing where it is not known. */
  leftOut: (path: string) => string | undefined;
}

/** What a job starts from: the defaults, or a preset with all its values. */
export function useStart(chosen: string): Start {
  const list = useQuery({
    queryKey: ["presets"],
    queryFn: async ({ signal }) => (await presets.listPresets({}, { signal })).presets,
    staleTime: Number.POSITIVE_INFINITY,
  });
  const all = list.data ?? [];
  const nameOf = (preset: Preset) => `PRESET_${Preset[preset]}`;
  const found = all.find((one) => nameOf(one.preset) === chosen);
  const values = found?.parameters ? toJson(TrainingParametersSchema, found.parameters) : undefined;
  return {
    presets: all.map((one) => ({
      name: nameOf(one.preset),
      title: sentence(word(Preset[one.preset], "")),
      description: one.description,
    })),
    leftOut: (path) => shownDefault(all, found, path),
    valueOf: (field) => (values ? valueAt(values, field.path) : undefined) ?? field.byDefault,
  };
}

/** A default is what any preset has that does not set it itself. */
function shownDefault(
  all: readonly PresetDescription[],
  chosen: PresetDescription | undefined,
  path: string,
): string | undefined {
  const [, own] = /^parameters\.(.+)$/.exec(path) ?? [];
  if (!own) return undefined;
  const stored = own.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const sets = (one: PresetDescription) => one.sets.some((name) => name === stored || name.startsWith(`${stored}.`));
  const from = chosen ?? all.find((one) => !sets(one));
  const value = from?.parameters && placeIn(toJson(TrainingParametersSchema, from.parameters), own);
  return value === undefined ? undefined : shownValue(value);
}

export function PresetChoice({
  value,
  onChange,
  start,
  problem,
}: {
  value: string;
  onChange: (value: string) => void;
  start: Start;
  problem: string | undefined;
}) {
  const chosen = start.presets.find((one) => one.name === value);
  return (
    <div className="mb-6 max-w-md">
      <SelectField
        label="Start from"
        value={value}
        onChange={onChange}
        hint={chosen?.description ?? "What you fill in wins over what you start from."}
        problem={problem}
      >
        <option value="">The defaults</option>
        {start.presets.map((one) => (
          <option key={one.name} value={one.name}>
            {one.title}
          </option>
        ))}
      </SelectField>
    </div>
  );
}
