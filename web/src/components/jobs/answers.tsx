"use client";

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { count } from "@/lib/format";
import { type Answer, type AnsweredRow, ORDERS, type Order, readAnswers, sorted } from "@/lib/jobs/answers";
import { readArtifactFile } from "@/lib/jobs/artifact_file";
import { percent } from "@/lib/jobs/evaluation";
import { Button, Chip, Empty, Picker } from "../ui";
import { Unread } from "../unread";

const FILE = "answers.jsonl";
/** Of a longer file the rows at its beginning, which are in the order of the dataset. */
const MOST_BYTES = 4 * 1024 * 1024;
const SHOWN = 5;

/** Single rows: what was asked, and what base and tuned model answered. Read only when somebody asks for them. */
export function Answers({ job }: { job: TrainingJob }) {
  const [isOpen, setOpen] = useState(false);
  const [order, setOrder] = useState<Order>("gained");
  const [shown, setShown] = useState(SHOWN);
  const found = useQuery({
    queryKey: ["answers", job.id, job.attempt, job.state],
    queryFn: ({ signal }) => download(job.id, signal),
    enabled: isOpen,
    staleTime: Infinity,
  });
  if (!isOpen) return <Button onClick={() => setOpen(true)}>Show answers</Button>;
  if (!found.isSuccess) return <Unread of={found} what="Reading the answers …" />;
  const { rows, isCut } = found.data;
  const chosen = sorted(rows, order);
  return (
    <div className="space-y-3">
      <div className="flex flex-wrap items-center gap-x-4 gap-y-2 text-sm">
        <Picker label="Order" value={order} options={ORDERS} onChange={(value) => (setOrder(value), setShown(SHOWN))} />
        <span className="text-ink-soft">
          {count(chosen.length, "row")}
          {isCut &&
            `, of the first ${rows.length.toLocaleString("en")} in the order of the dataset; all are in ${FILE}`}
        </span>
      </div>
      {chosen.length === 0 && <Empty title="No row is of this kind" />}
      <ul className="space-y-3">
        {chosen.slice(0, shown).map((row) => (
          <Row key={row.sample_id} row={row} />
        ))}
      </ul>
      {chosen.length > shown && <Button onClick={() => setShown(shown + SHOWN)}>Show more</Button>}
    </div>
  );
}

function Row({ row }: { row: AnsweredRow }) {
  return (
    <li className="rounded-lg border border-line bg-ground p-4 text-sm">
      <p dir="auto" className="break-words whitespace-pre-wrap text-ink-soft">
        {row.question}
      </p>
      <dl className="mt-2 grid gap-x-4 gap-y-1.5 sm:grid-cols-[6rem_1fr]">
        <dt className="text-ink-soft">Reference</dt>
        <dd dir="auto" className="font-medium break-words whitespace-pre-wrap">
          {row.reference}
        </dd>
        <Said name="Tuned" answer={row.answers.TUNED} />
        <Said name="Base" answer={row.answers.BASE} />
      </dl>
      {row.tags.length > 0 && (
        <p className="mt-2 flex flex-wrap gap-1">
          {row.tags.map((tag) => (
            <Chip key={tag} tone="plain">
              {tag}
            </Chip>
          ))}
        </p>
      )}
    </li>
  );
}

function Said({ name, answer }: { name: string; answer: Answer | undefined }) {
  if (!answer) return null;
  const tone = answer.exact_match === 1 ? "good" : answer.token_f1 === 0 ? "bad" : "warn";
  return (
    <>
      <dt className="text-ink-soft">{name}</dt>
      <dd className="flex flex-wrap items-start justify-between gap-x-3 gap-y-1">
        <span dir="auto" className="min-w-0 flex-1 basis-40 break-words whitespace-pre-wrap">
          {answer.text.trim() ? answer.text : <em className="text-ink-soft">said nothing</em>}
        </span>
        <Chip tone={tone}>{answer.exact_match === 1 ? "exact" : `F1 ${percent(answer.token_f1)}`}</Chip>
      </dd>
    </>
  );
}

async function download(jobId: string, signal: AbortSignal): Promise<{ rows: AnsweredRow[]; isCut: boolean }> {
  const file = await readArtifactFile(jobId, FILE, MOST_BYTES, signal);
  if (!file) throw new Error(`The result holds no ${FILE}. Evaluate again.`);
  return { rows: readAnswers(file.text, file.isCut), isCut: file.isCut };
}
