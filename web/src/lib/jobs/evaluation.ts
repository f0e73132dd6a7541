// What an evaluation says, in words.
import {
  type ConditionComparison,
  type Estimate,
  type Evaluation,
  EvaluationCondition,
  EvaluationControl,
} from "@/gen/reeltune/scheduler/v1/evaluation_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
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
const FEWEST_ROWS = 10n;

/** The split whose rows an adapter is trained on. */
const SEEN_SPLIT = "train";

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

/** How a difference over some rows is coloured: only where it can be told from chance, and says something of other rows. */
export function toneOf(difference: Estimate, rows: bigint, { split }: Pick<Evaluation, "split">): Verdict["tone"] {
  if (rows < FEWEST_ROWS) return "plain";
  const tone = ({ 1: "good", 0: "plain", [-1]: "bad" } as const)[directionOf(difference)];
  return tone === "good" && split === SEEN_SPLIT ? "plain" : tone;
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
  const { TUNED, BASE } = EvaluationCondition;
  const gain = comparisonOf(evaluation, TUNED, BASE)?.tokenF1;
  if (!gain) return { tone: "plain", text: "Base and tuned model were not compared." };
  const told = `token F1 ${between(gain)}`;
  const rows = rowsOf(evaluation, TUNED, BASE);
  if (rows < FEWEST_ROWS) return { tone: "plain", text: `${few(rows)} to tell what tuning has done: ${told}.` };
  const direction = directionOf(gain);
  const isSeen = evaluation.split === SEEN_SPLIT;
  if (isSeen && direction > 0)
    return {
      tone: "plain",
      text: `On rows that it may have been trained on, ${told}. This does not tell whether tuning helps on others: evaluate on rows that were held out.`,
    };
  if (direction > 0) return { tone: "good", text: `Tuning helps: ${told}.` };
  if (direction < 0)
    return {
      tone: "bad",
      text: `Tuning makes it worse: ${told}. Try a lower learning rate or fewer steps, and look at the rows below.`,
    };
  return {
    tone: "warn",
    text: `Tuning makes no difference that could be told from chance${isSeen ? ", not even on rows that it may have been trained on" : ""}: ${told}. More rows make it clearer, more steps or data may change it.`,
  };
}

/** Whether answers come from the video. */
export function videoVerdict(evaluation: Evaluation, asked: readonly EvaluationControl[]): Verdict {
  const control = {
    condition: EvaluationCondition.SHUFFLED_CLIPS,
    control: EvaluationControl.SHUFFLED_CLIPS,
    change: "with the clips of another row",
  };
  return controlVerdict(evaluation, asked, [control], {
    subject: "whether the video matters",
    matters: "The video matters",
    takes: "rows that show different clips",
    isNothing:
      "No sign that the video matters; the answers may come from the question alone. Ask what only the clip can tell, in rows of unlike answers.",
  });
}

/** Whether it matters in which order frames are shown: by what shows it, frames reversed or in random order. */
export function orderVerdict(evaluation: Evaluation, asked: readonly EvaluationControl[]): Verdict {
  const reversed = {
    condition: EvaluationCondition.REVERSED_FRAMES,
    control: EvaluationControl.REVERSED_FRAMES,
    change: "with the frames reversed",
  };
  const shuffled = {
    condition: EvaluationCondition.SHUFFLED_FRAMES,
    control: EvaluationControl.SHUFFLED_FRAMES,
    change: "with the frames in random order",
  };
  return controlVerdict(evaluation, asked, [reversed, shuffled], {
    subject: "whether the order of frames matters",
    matters: "The order of frames matters",
    takes: "clips of several frames",
    isNothing:
      "No sign that the order of frames matters. Where no question asks what comes first, none is to be expected.",
  });
}

/** The controls that an evaluation was to ask. */
export function controlsAsked(job: TrainingJob): readonly EvaluationControl[] {
  const task = job.postTraining?.task;
  return task?.case === "evaluation" ? task.value.controls : [];
}

interface Control {
  condition: EvaluationCondition;
  control: EvaluationControl;
  /** What it changes. */
  change: string;
}

interface ControlWords {
  subject: string;
  matters: string;
  /** What rows must have for it to be asked. */
  takes: string;
  isNothing: string;
}

/** By the first of the controls that shows an effect, or else by the first that was answered. */
function controlVerdict(
  evaluation: Evaluation,
  asked: readonly EvaluationControl[],
  controls: readonly [Control, ...Control[]],
  words: ControlWords,
): Verdict {
  const answered = controls.flatMap((one) => {
    const loss = comparisonOf(evaluation, EvaluationCondition.TUNED, one.condition)?.tokenF1;
    return loss ? [{ ...one, loss, rows: rowsOf(evaluation, EvaluationCondition.TUNED, one.condition) }] : [];
  });
  const isEnough = ({ rows }: { rows: bigint }) => rows >= FEWEST_ROWS;
  const chosen =
    answered.find((one) => isEnough(one) && directionOf(one.loss) > 0) ?? answered.find(isEnough) ?? answered[0];
  if (!chosen) return { tone: "plain", text: notAnswered(asked, controls, words) };
  const { loss, rows, change } = chosen;
  const told = `${change} token F1 ${between(negated(loss))}`;
  if (!isEnough(chosen)) return { tone: "plain", text: `${few(rows)} to tell ${words.subject}: ${told}.` };
  const tuned = evaluation.results.find((one) => one.condition === EvaluationCondition.TUNED);
  if (tuned?.tokenF1?.mean === 0)
    return { tone: "warn", text: `The tuned model gets nothing right, so that it cannot be told ${words.subject}.` };
  if (directionOf(loss) > 0) return { tone: "good", text: `${words.matters}: ${told}.` };
  if (directionOf(loss) < 0)
    return { tone: "warn", text: `Odd: ${told}. Look whether rows and clips belong together.` };
  return { tone: "warn", text: `${words.isNothing} In numbers: ${told}.` };
}

/** What was to be asked and could not be is another thing than what nobody chose. */
function notAnswered(
  asked: readonly EvaluationControl[],
  controls: readonly [Control, ...Control[]],
  { subject, takes }: ControlWords,
): string {
  const unanswered = controls.find((one) => asked.includes(one.control));
  if (unanswered)
    return `It could not be asked ${subject}: the control “${CONDITIONS[unanswered.condition]}” takes ${takes}.`;
  return `Nobody has asked ${subject}: evaluate with the control “${CONDITIONS[controls[0].condition]}”.`;
}

/** Rows that were answered under both conditions: a control may have been asked of some of them alone. */
function rowsOf(evaluation: Evaluation, ...conditions: EvaluationCondition[]): bigint {
  const rows = conditions.map((condition) => evaluation.results.find((one) => one.condition === condition)?.rows);
  return rows.reduce<bigint>((fewest, one) => (one !== undefined && one < fewest ? one : fewest), evaluation.rows);
}

function few(rows: bigint): string {
  return `${count(rows, "row")} ${rows === 1n ? "is" : "are"} too few`;
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
