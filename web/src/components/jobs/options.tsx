"use client";

import type { ReactNode } from "react";
import { DeviceClass } from "@/gen/reeltune/scheduler/v1/worker_pb";
import { NumberField, type NumberProps } from "../number_field";
import { SelectField, useOpenedBy } from "../ui";

/** What few need: folded away, and opened where something is wrong in it. */
export function MoreOptions({ isMistaken, children }: { isMistaken: boolean; children: ReactNode }) {
  const ref = useOpenedBy(isMistaken);
  return (
    <details ref={ref} className="text-sm">
      <summary className="font-medium">More options</summary>
      <div className="mt-4 grid gap-x-4 gap-y-5 text-base sm:grid-cols-2 lg:grid-cols-3">{children}</div>
    </details>
  );
}

export const LEAST_PRIORITY = -100;
export const MOST_PRIORITY = 100;

type OneNumber = Pick<NumberProps, "value" | "onChange" | "problem">;

export function PriorityField({ value, onChange, problem }: OneNumber) {
  return (
    <NumberField
      label="Priority"
      hint="Among your own jobs: higher ones go first."
      byDefault="0"
      least={LEAST_PRIORITY}
      most={MOST_PRIORITY}
      value={value}
      onChange={onChange}
      problem={problem}
    />
  );
}

export const MOST_TEMPERATURE = 2;

export function AnswerLengthField({ most, value, onChange, problem }: OneNumber & Pick<NumberProps, "most">) {
  return (
    <NumberField
      label="Longest answer"
      hint="In tokens; what is longer is cut."
      byDefault="64"
      least={1}
      most={most}
      value={value}
      onChange={onChange}
      problem={problem}
    />
  );
}

export function TemperatureField({ value, onChange, problem }: OneNumber) {
  return (
    <NumberField
      label="Temperature"
      hint="0 takes the likeliest token at every step; up to 2, tokens are drawn more and more freely."
      byDefault="0"
      least={0}
      most={MOST_TEMPERATURE}
      isInteger={false}
      value={value}
      onChange={onChange}
      problem={problem}
    />
  );
}

const DEVICES: Readonly<Record<string, string>> = {
  DEVICE_CLASS_CPU: "Trainers without an accelerator",
  DEVICE_CLASS_CUDA: "Trainers with CUDA GPUs",
  DEVICE_CLASS_JETSON: "Jetson boards",
};

/** Where a job may run, as JSON names it. */
export function DeviceClassField({ value, onChange, problem }: OneNumber) {
  return (
    <SelectField label="Where it may run" value={value} onChange={onChange} problem={problem}>
      <option value="">Anywhere</option>
      {Object.entries(DEVICES).map(([name, shown]) => (
        <option key={name} value={name}>
          {shown}
        </option>
      ))}
    </SelectField>
  );
}

/** The class of that name; any for none. */
export function deviceClassOf(name: string): DeviceClass {
  return DeviceClass[name.replace("DEVICE_CLASS_", "") as keyof typeof DeviceClass] ?? DeviceClass.UNSPECIFIED;
}
