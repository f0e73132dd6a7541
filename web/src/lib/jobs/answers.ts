// `answers.jsonl` of an evaluation: one row a line, with what each condition answered.
import { EvaluationCondition } from "@/gen/reeltune/scheduler/v1/evaluation_pb";

export interface Answer {
  text: string;
  exact_match: number;
  rouge_l: number;
  token_f1: number;
}

export interface AnsweredRow {
  sample_id: string;
  question: string;
  reference: string;
  tags: string[];
  /** By the name of the condition: `BASE`, `TUNED` … */
  answers: Partial<Record<keyof typeof EvaluationCondition, Answer>>;
}

/** Reads whole lines; where the text was cut, its last line is none. */
export function readAnswers(text: string, isCut: boolean): AnsweredRow[] {
  const lines = text.split("\n");
  // Behind the last line's end there is nothing, or the beginning of a line that was cut.
  if (isCut || lines.at(-1) === "") lines.pop();
  // A loss that is no number is written as Python writes it.
  return lines.map((line) => JSON.parse(line.replace(/"loss": (NaN|-?Infinity)/g, '"loss": null')) as AnsweredRow);
}

export const ORDERS = {
  gained: "Gained most by tuning",
  lost: "Lost by tuning",
  worst: "Worst of the tuned model",
  best: "Best of the tuned model",
} as const;
export type Order = keyof typeof ORDERS;

/** The rows of an order, the first ones first: of those that gained or lost only these, by token F1, then ROUGE-L. */
export function sorted(rows: readonly AnsweredRow[], order: Order): AnsweredRow[] {
  const worth = (answer: Answer | undefined) => (answer ? answer.token_f1 + answer.rouge_l / 1e3 : 0);
  const gain = (row: AnsweredRow) => worth(row.answers.TUNED) - worth(row.answers.BASE);
  const tuned = (row: AnsweredRow) => worth(row.answers.TUNED);
  if (order === "gained") return rows.filter((row) => gain(row) > 0).sort((one, other) => gain(other) - gain(one));
  if (order === "lost") return rows.filter((row) => gain(row) < 0).sort((one, other) => gain(one) - gain(other));
  const sign = order === "best" ? -1 : 1;
  return [...rows].sort((one, other) => sign * (tuned(one) - tuned(other)));
}
