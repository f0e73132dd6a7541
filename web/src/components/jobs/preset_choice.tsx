"use client";

import { toJson } from "@bufbuild/protobuf";
import { useQuery } from "@tanstack/react-query";
import { Preset } from "@/gen/reeltune/scheduler/v1/training_options_pb";
import { TrainingParametersSchema } from "@/gen/reeltune/scheduler/v1/training_parameters_pb";
import { presets } from "@/lib/clients";
import { sentence, word } from "@/lib/format";
import { type JobField, valueAt } from "@/lib/jobs/fields";
import { INPUT } from "../ui";

interface Start {
  presets: { name: string; title: string; description: string }[];
  /** What a field has when nobody fills it in. */
  valueOf: (field: JobField) => string;
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
    valueOf: (field) => (values ? valueAt(values, field.path) : undefined) ?? field.byDefault,
  };
}

export function PresetChoice({
  value,
  onChange,
  start,
}: {
  value: string;
  onChange: (value: string) => void;
  start: Start;
}) {
  const chosen = start.presets.find((one) => one.name === value);
  return (
    <div className="mb-6 max-w-md">
      <label htmlFor="preset" className="mb-1 block text-sm font-medium">
        Start from
      </label>
      <select
        id="preset"
        className={INPUT}
        value={value}
        aria-describedby="preset-note"
        onChange={(event) => onChange(event.target.value)}
      >
        <option value="">The defaults</option>
        {start.presets.map((one) => (
          <option key={one.name} value={one.name}>
            {one.title}
          </option>
        ))}
      </select>
      <p id="preset-note" className="mt-1 text-sm text-ink-soft">
        {chosen?.description ?? "What you fill in wins over what you start from."}
      </p>
    </div>
  );
}
