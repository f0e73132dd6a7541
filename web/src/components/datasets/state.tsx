import { type Dataset, DatasetState } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { Chip, type Tone } from "../ui";

const STATES: Record<DatasetState, { tone: Tone; name: string }> = {
  [DatasetState.UNSPECIFIED]: { tone: "plain", name: "unknown" },
  [DatasetState.PENDING]: { tone: "plain", name: "open" },
  [DatasetState.PROCESSING]: { tone: "accent", name: "checking" },
  [DatasetState.READY]: { tone: "good", name: "ready" },
  [DatasetState.ERROR]: { tone: "bad", name: "has errors" },
};

export function StateChip({ dataset }: { dataset: Dataset }) {
  const { tone, name } = STATES[dataset.state];
  return (
    <Chip tone={tone} isLive={dataset.state === DatasetState.PROCESSING}>
      {name}
    </Chip>
  );
}

export function takesFiles(dataset: Dataset): boolean {
  return dataset.state === DatasetState.PENDING || dataset.state === DatasetState.ERROR;
}
