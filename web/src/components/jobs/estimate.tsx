"use client";

import { fromJson, type JsonObject } from "@bufbuild/protobuf";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { type DeviceEstimate, Fit } from "@/gen/reeltune/scheduler/v1/estimate_service_pb";
import { TrainingParametersSchema } from "@/gen/reeltune/scheduler/v1/training_parameters_pb";
import { DeviceClass } from "@/gen/reeltune/scheduler/v1/worker_pb";
import { estimates } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { bytes, count, duration, parameters as amount, word } from "@/lib/format";
import { Chip, Panel, type Tone } from "../ui";

const SETTLE_MS = 500;

/** What the job would take on the trainers that there are, told again whenever the form changes. */
export function Estimate({
  modelId,
  datasetId,
  deviceCount,
  parameters,
}: {
  modelId: string;
  datasetId: string;
  /** As many as the service takes where there is none. */
  deviceCount?: number;
  parameters: JsonObject;
}) {
  const asked = useSettled(JSON.stringify({ modelId, datasetId, deviceCount, parameters }));
  const found = useQuery({
    queryKey: ["estimate", asked],
    queryFn: ({ signal }) => {
      const { parameters: given, ...request } = JSON.parse(asked) as {
        modelId: string;
        datasetId: string;
        deviceCount?: number;
        parameters: JsonObject;
      };
      return estimates.estimateTrainingJob(
        { ...request, parameters: fromJson(TrainingParametersSchema, given) },
        { signal },
      );
    },
    enabled: modelId !== "" && datasetId !== "",
    placeholderData: (former) => former,
    retry: false,
  });
  if (!modelId || !datasetId) return null;
  if (found.isError) return <p className="text-sm text-ink-soft">{`No estimate: ${explain(found.error).message}`}</p>;
  const { devices = [], trainedParameters = 0n, tokens } = found.data ?? {};
  return (
    <Panel title="What it will take">
      <div aria-live="polite" aria-busy={found.isFetching} className="space-y-3 text-sm">
        <p className="text-ink-soft">
          {trainedParameters > 0 ? `${amount(trainedParameters)} are trained. ` : ""}
          {tokens
            ? `A row has up to ${count(tokens.maxVisualTokens + tokens.maxTextTokens, "token")}, of which ${Number(tokens.maxVisualTokens).toLocaleString("en")} are frames.`
            : ""}
          {tokens && tokens.rowsOverContext > 0
            ? ` Up to ${count(tokens.rowsOverContext, "row")} would be longer than the model takes.`
            : ""}
        </p>
        {found.isSuccess && devices.length === 0 && (
          <p>No trainer that could take it is there at the moment; the job would wait for one.</p>
        )}
        {devices.map((device, index) => (
          <Device key={index} device={device} />
        ))}
      </div>
    </Panel>
  );
}

const FITS: Record<Fit, { tone: Tone; name: string }> = {
  [Fit.UNSPECIFIED]: { tone: "plain", name: "not known" },
  [Fit.FITS]: { tone: "good", name: "fits" },
  [Fit.TIGHT]: { tone: "warn", name: "may fit" },
  [Fit.EXCEEDS]: { tone: "bad", name: "does not fit" },
};

function Device({ device }: { device: DeviceEstimate }) {
  const { tone, name } = FITS[device.fit];
  const { suggestion } = device;
  const of = device.memoryBytes > 0 ? ` of ${bytes(device.memoryBytes)}` : "";
  return (
    <div className="flex flex-wrap items-baseline gap-x-4 gap-y-1">
      <Chip tone={tone}>{name}</Chip>
      <span className="font-medium">{word(DeviceClass[device.deviceClass], "").toUpperCase()}</span>
      <span className="tabular-nums">{`${bytes(device.totalBytes)}${of}`}</span>
      {device.time && (
        <span className="tabular-nums">{`about ${duration(device.time.totalSeconds)} for ${count(device.time.steps, "step")}`}</span>
      )}
      {suggestion && (
        <span className="text-ink-soft">{`It surely fits with ${count(suggestion.maxFrames, "frame")} and ${count(suggestion.batchSize, "sample")} at once.`}</span>
      )}
    </div>
  );
}

/** The text, once it has not changed for a moment. */
function useSettled(text: string): string {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), SETTLE_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}
