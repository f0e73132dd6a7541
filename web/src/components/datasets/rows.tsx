"use client";

import { useQuery } from "@tanstack/react-query";
import type { Message, Sample } from "@/gen/reeltune/catalog/v1/sample_pb";
import { datasets } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { count } from "@/lib/format";
import { Chip, Panel, Problem } from "../ui";

const SHOWN = 10;

/** The first rows as training reads them. */
export function Rows({ datasetId, rows }: { datasetId: string; rows: number }) {
  const list = useQuery({
    queryKey: ["of-dataset", datasetId, "samples"],
    queryFn: async ({ signal }) => (await datasets.listSamples({ datasetId, pageSize: SHOWN }, { signal })).samples,
  });
  if (list.isError) return <Problem>{explain(list.error).message}</Problem>;
  if (!list.data?.length) return null;
  const title =
    rows > SHOWN
      ? `The first ${SHOWN} of ${count(rows, "row")}, as training reads them`
      : `${count(rows, "row")}, as training reads them`;
  return (
    <Panel title={title}>
      <ul className="divide-y divide-line text-sm">
        {list.data.map((sample) => (
          <Row key={sample.sampleId} sample={sample} />
        ))}
      </ul>
    </Panel>
  );
}

function Row({ sample }: { sample: Sample }) {
  return (
    <li className="grid gap-x-4 gap-y-1 py-2.5 sm:grid-cols-[6rem_1fr]">
      <span>
        <Chip tone={sample.split === "train" ? "accent" : "plain"}>{sample.split}</Chip>
      </span>
      <div className="min-w-0 space-y-0.5">
        {sample.messages.map((message, index) => (
          <p
            key={index}
            dir="auto"
            className={message.role === "assistant" ? "font-medium break-words" : "break-words text-ink-soft"}
          >
            {textOf(message)}
          </p>
        ))}
        {sample.tags.length > 0 && (
          <p className="flex flex-wrap gap-1 pt-1">
            {sample.tags.map((tag) => (
              <Chip key={tag} tone="plain">
                {tag}
              </Chip>
            ))}
          </p>
        )}
      </div>
    </li>
  );
}

function textOf(message: Message): string {
  const pieces = message.content.map(({ part }) =>
    part.case === "video" ? `[${part.value.path}]` : part.case === "text" ? part.value : "",
  );
  return pieces.join(" ");
}
