import { type Model, ModelState } from "@/gen/reeltune/catalog/v1/model_pb";
import { Chip, type Tone } from "../ui";

const STATES: Record<ModelState, { tone: Tone; name: string }> = {
  [ModelState.UNSPECIFIED]: { tone: "plain", name: "unknown" },
  [ModelState.PENDING]: { tone: "plain", name: "open" },
  [ModelState.PROCESSING]: { tone: "accent", name: "checking" },
  [ModelState.READY]: { tone: "good", name: "ready" },
  [ModelState.ERROR]: { tone: "bad", name: "has errors" },
};

export function StateChip({ model }: { model: Model }) {
  const { tone, name } = STATES[model.state];
  return (
    <Chip tone={tone} isLive={model.state === ModelState.PROCESSING}>
      {name}
    </Chip>
  );
}
