// What a merge has made, in words.
import { type Merge, MergeWeights } from "@/gen/reeltune/scheduler/v1/merge_pb";
import { count, measured } from "@/lib/format";
import { percent, type Verdict } from "./evaluation";

export const WEIGHTS = [
  {
    weights: MergeWeights.DEQUANTIZED,
    label: "The weights that it was trained on",
    hint: "Expanded from 4 bits again. The merged model answers as base and adapter do.",
    warning: "",
  },
  {
    weights: MergeWeights.ORIGINAL,
    label: "The base model's own 16-bit weights",
    hint: "Nearer to the published model.",
    warning:
      "The adapter has never seen these weights, so that answers may differ from those in training. The check tells how far; evaluate the model before you use it.",
  },
] as const;

/** As far as this from the adapter, a merged model is nearer to it than to the base model. */
const NEARER = 2;

/** Whether the merged model is what was trained: near the adapter, and not the base model. */
export function mergeVerdict(merge: Merge): Verdict {
  const { adapterLogitDifference: near, baseLogitDifference: far } = merge;
  const rows = count(merge.rows, "row");
  if (far === 0)
    return {
      tone: "bad",
      text: `The merged model answers like the base model on ${rows}: the adapter changes nothing there. Train for longer, or at a higher learning rate.`,
    };
  const agreement = `At ${percent(merge.adapterAgreement)} of the tokens both find the same one likeliest.`;
  if (near * NEARER < far) {
    const apart =
      near === 0
        ? "it says just what base and adapter say together, and something else than the base model"
        : `it is ${Number((far / near).toPrecision(2)).toLocaleString("en")} times as far from the base model as from base and adapter together`;
    return {
      tone: "good",
      text: `The merged model is what was trained: on ${rows} ${apart}. ${agreement}`,
    };
  }
  return {
    tone: "warn",
    text: `Merging went wrong by about as much as was learned: on ${rows} the merged model is ${measured(near)} from base and adapter together and ${measured(far)} from the base model. ${agreement} Evaluate it before you use it.`,
  };
}
