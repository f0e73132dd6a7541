// What an evaluation says, in words.
import {
  type ConditionComparison,
  type Estimate,
  type Evaluation,
  EvaluationCondition,
  EvaluationControl,
} from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import { count } from "@/lib/format";

export type Measure = "exactMatch" | "rougeL" | "tokenF1";

export const MEASURES: readonly { key: Measure; label: string; hint: string }[] = [
  { key: "exactMatch", label: "Exact match", hint: "Answers that say just what the reference says" },
  { key: "rougeL", label: "ROUGE-L", hint: "Words in the order of the reference" },
  { key: "tokenF1", label: "Token F1", hint: "Words in common, whatever their order" },
];

export const CONDITIONS: Record<EvaluationCondition, string> = {
  [EvaluationCondition.UNSPECIFIED]: "unknown",
  [EvaluationCondition.BASE]: "Base",
  [EvaluationCondition.TUNED]: "Tuned",
  [EvaluationCondition.SHUFFLED_CLIPS]: "Clips of another row",
  [EvaluationCondition.REVERSED_FRAMES]: "Frames reversed",
  [EvaluationCondition.SHUFFLED_FRAMES]: "Frames in random order",
};

export const CONTROLS: readonly { control: EvaluationControl; label: string; hint: string }[] = [
  {
    control: EvaluationControl.SHUFFLED_CLIPS,
    label: CONDITIONS[EvaluationCondition.SHUFFLED_CLIPS],
    hint: "Do answers come from the video, or from the question alone?",
  },
  {
    control: EvaluationControl.REVERSED_FRAMES,
    label: CONDITIONS[EvaluationCondition.REVERSED_FRAMES],
    hint: "Does it matter what comes first?",
  },
  {
    control: EvaluationControl.SHUFFLED_FRAMES,
    label: CONDITIONS[EvaluationCondition.SHUFFLED_FRAMES],
    hint: "Does the order of frames matter at all?",
  },
];

/** Of fewer rows an interval says too little. */
const FEWEST_ROWS = 10;

export interface Verdict {
  tone: "good" | "warn" | "bad" | "plain";
  text: string;
}

/** `62.5 %` */
export function percent(value: number): string {
  return `${Number((value * 100).toFixed(1))} %`;
}

/** `+31 points`, with a real minus. */
export function points(value: number): string {
  const rounded = Number((value * 100).toFixed(1));
  return `${signed(rounded)} ${Math.abs(rounded) === 1 ? "point" : "points"}`;
}

function signed(value: number): string {
  return value > 0 ? `+${value}` : value < 0 ? `−${-value}` : "0";
}

/** `55 to 70 %` of a mean, `+20 to +42` of a difference. */
export function interval(estimate: Estimate, isDifference = false): string {
  const [low, high] = [estimate.low, estimate.high].map((value) => Number((value * 100).toFixed(1))) as [
    number,
    number,
  ];
  return isDifference ? `${signed(low)} to ${signed(high)}` : `${low} to ${high} %`;
}

/** Whether a difference is above, below or not told apart from 0. */
export function directionOf(estimate: Estimate | undefined): 1 | -1 | 0 {
  if (!estimate) return 0;
  return estimate.low > 0 ? 1 : estimate.high < 0 ? -1 : 0;
}

export function comparisonOf(
  evaluation: Evaluation,
  condition: EvaluationCondition,
  against: EvaluationCondition,
): ConditionComparison | undefined {
  return evaluation.comparisons.find((one) => one.condition === condition && one.against === against);
}

/** Whether tuning has helped. All verdicts go by token F1, which tells of one-word answers and of whole sentences alike. */
export function gainVerdict(evaluation: Evaluation): Verdict {
  const gain = comparisonOf(evaluation, EvaluationCondition.TUNED, EvaluationCondition.BASE)?.tokenF1;
  if (!gain) return { tone: "plain", text: "Base and tuned model were not compared." };
  const told = `token F1 ${between(gain)}`;
  if (isTooFew(evaluation)) return { tone: "plain", text: `${few(evaluation)} to tell what tuning has done: ${told}.` };
  if (directionOf(gain) > 0) return { tone: "good", text: `Tuning helps: ${told}.` };
  if (directionOf(gain) < 0)
    return {
      tone: "bad",
      text: `Tuning makes it worse: ${told}. Try a lower learning rate or fewer steps, and look at the rows below.`,
    };
  return {
    tone: "warn",
    text: `Tuning makes no difference that could be told from chance: ${told}. More rows make it clearer, more steps or data may change it.`,
  };
}

/** Whether answers come from the video. */
export function videoVerdict(evaluation: Evaluation): Verdict {
  return controlVerdict(evaluation, EvaluationCondition.SHUFFLED_CLIPS, {
    subject: "whether the video matters",
    change: "with the clips of another row",
    matters: "The video matters",
    isNothing:
      "No sign that the video matters; the answers may come from the question alone. Ask what only the clip can tell, in rows of unlike answers.",
  });
}

/** Whether it matters in which order frames are shown. */
export function orderVerdict(evaluation: Evaluation): Verdict {
  return controlVerdict(evaluation, EvaluationCondition.REVERSED_FRAMES, {
    subject: "whether the order of frames matters",
    change: "with the frames reversed",
    matters: "The order of frames matters",
    isNothing:
      "No sign that the order of frames matters. Where no question asks what comes first, none is to be expected.",
  });
}

interface ControlWords {
  subject: string;
  change: string;
  matters: string;
  isNothing: string;
}

function controlVerdict(evaluation: Evaluation, control: EvaluationCondition, words: ControlWords): Verdict {
  const loss = comparisonOf(evaluation, EvaluationCondition.TUNED, control)?.tokenF1;
  if (!loss)
    return {
      tone: "plain",
      text: `Nobody has asked ${words.subject}: evaluate with the control “${CONDITIONS[control]}”.`,
    };
  const told = `${words.change} token F1 ${between(negated(loss))}`;
  if (isTooFew(evaluation)) return { tone: "plain", text: `${few(evaluation)} to tell ${words.subject}: ${told}.` };
  const tuned = evaluation.results.find((one) => one.condition === EvaluationCondition.TUNED);
  if (tuned?.tokenF1?.mean === 0)
    return { tone: "warn", text: `The tuned model gets nothing right, so that it cannot be told ${words.subject}.` };
  if (directionOf(loss) > 0) return { tone: "good", text: `${words.matters}: ${told}.` };
  if (directionOf(loss) < 0)
    return { tone: "warn", text: `Odd: ${told}. Look whether rows and clips belong together.` };
  return { tone: "warn", text: `${words.isNothing} In numbers: ${told}.` };
}

function isTooFew(evaluation: Evaluation): boolean {
  return evaluation.rows < FEWEST_ROWS;
}

function few(evaluation: Evaluation): string {
  return `${count(evaluation.rows, "row")} ${evaluation.rows === 1n ? "is" : "are"} too few`;
}

function negated({ mean, low, high }: Estimate): Pick<Estimate, "mean" | "low" | "high"> {
  return { mean: -mean, low: -high, high: -low };
}

/** `rises by 31 points (95 % interval +20 to +42)` */
function between(difference: Pick<Estimate, "mean" | "low" | "high">): string {
  const amount = Number((Math.abs(difference.mean) * 100).toFixed(1));
  if (difference.low === 0 && difference.high === 0) return "does not change in any row";
  const moved =
    amount === 0
      ? "stays as it is on the whole"
      : `${difference.mean > 0 ? "rises" : "falls"} by ${amount} ${amount === 1 ? "point" : "points"}`;
  return `${moved} (95 % interval ${interval(difference as Estimate, true)})`;
}
