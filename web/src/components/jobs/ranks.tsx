"use client";

import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { measured, parameters, sentence } from "@/lib/format";
import { readArtifactFile } from "@/lib/jobs/artifact_file";
import { percent } from "@/lib/jobs/evaluation";
import { gridsOf, orderOf, type RankGrid, type RankReport, worthOf } from "@/lib/jobs/ranks";
import { isFinal } from "@/lib/jobs/story";
import { Table } from "../table";
import { Empty, Facts } from "../ui";
import { Unread } from "../unread";
import { Bars, Section } from "./findings";

const FILE = "rank_allocation.json";
/** Of the largest models: a thousand layers with a hundred scores each take some 2 MB. */
const MOST_BYTES = 32 * 1024 * 1024;

/** Which layer has got which rank, and for what. */
export function Ranks({ job }: { job: TrainingJob }) {
  const found = useQuery({
    // A retry leaves what the last attempt made in place until it is replaced.
    queryKey: ["ranks", job.id, job.attempt, job.state],
    queryFn: async ({ signal }) => {
      const file = await readArtifactFile(job.id, FILE, MOST_BYTES, signal);
      return file ? (JSON.parse(file.text) as RankReport) : null;
    },
    staleTime: Infinity,
  });
  if (!found.isSuccess) return <Unread of={found} what="Reading the ranks …" />;
  if (!found.data && !isFinal(job.state))
    return <Empty title="Ranks are not allocated yet">They stand here as soon as the job has ended.</Empty>;
  if (!found.data)
    return <Empty title="Ranks were not allocated">The job ended before its warm-up did. Try it again.</Empty>;
  return <Report report={found.data} />;
}

function Report({ report }: { report: RankReport }) {
  const ranks = report.layers.map((layer) => layer.rank);
  const kept = ranks.filter((rank) => rank > 0).length;
  const most = Math.max(...ranks, 1);
  const shares = Object.entries(report.shares).sort(([one], [other]) => orderOf(one) - orderOf(other));
  return (
    <div className="space-y-8">
      <h2 className="sr-only">Ranks</h2>
      <div className="space-y-4">
        <p className="max-w-prose text-sm text-ink-soft">
          After a warm-up at a higher rank each layer has kept what the loss would miss most for its parameters. More
          rank says that the loss was more sensitive to the layer on the rows of the warm-up, and no more than that.
        </p>
        <Facts
          facts={[
            ["Layers with an adapter", `${kept} of ${ranks.length}`],
            ["Ranks", `${Math.min(...ranks)} to ${Math.max(...ranks)}`],
            ["Spent", parameters(report.spent_parameters)],
            ["Budget", parameters(report.budget_parameters)],
          ]}
        />
      </div>
      <Section title="Shares of the parameters">
        <div className="max-w-xl">
          <Bars
            bars={shares.map(([name, share]) => ({
              name: sentence(name),
              text: percent(share),
              share,
              isStrong: true,
            }))}
          />
        </div>
      </Section>
      <Section title="Rank of each layer">
        {gridsOf(report.layers).map((grid) => (
          <Grid key={grid.name} grid={grid} most={most} />
        ))}
      </Section>
      <Layers report={report} />
    </div>
  );
}

/** Ranks as numbers and as bars. */
function Grid({ grid, most }: { grid: RankGrid; most: number }) {
  return (
    <div className="space-y-1.5">
      <p className="text-sm">
        {sentence(grid.group)} <span className="font-mono text-xs break-all text-ink-soft">{grid.name}</span>
      </p>
      <div tabIndex={0} role="region" aria-label={`Ranks of ${grid.name}`} className="overflow-x-auto rounded-lg">
        <table className="text-sm tabular-nums">
          <thead>
            <tr>
              <th scope="col" className="pr-3 pb-1 text-left text-xs font-medium text-ink-soft">
                Block
              </th>
              {grid.modules.map((module) => (
                <th key={module} scope="col" className="pr-1 pb-1 text-left text-xs font-medium text-ink-soft">
                  {module}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {grid.blocks.map((block) => (
              <tr key={block.name}>
                <th scope="row" className="pr-3 text-left font-medium">
                  {block.name || "–"}
                </th>
                {block.ranks.map((rank, index) => (
                  <td key={index} className="pr-1 pb-1">
                    {rank !== undefined && <Rank rank={rank} most={most} />}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}

function Rank({ rank, most }: { rank: number; most: number }) {
  return (
    <div className="flex items-center gap-2 rounded bg-ground px-2 py-1">
      <span className="w-5 shrink-0 text-right">{rank}</span>
      <svg aria-hidden viewBox="0 0 100 1" preserveAspectRatio="none" className="h-2 w-14">
        <rect width="100" height="1" className="fill-raised" />
        <rect width={(rank / most) * 100} height="1" className="fill-accent" />
      </svg>
    </div>
  );
}

function Layers({ report }: { report: RankReport }) {
  const [isOpen, setOpen] = useState(false);
  return (
    <details className="text-sm" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="text-ink-soft">All layers, those first that the loss would miss most</summary>
      {isOpen && (
        <div className="mt-3">
          <Table
            label="All layers"
            head={["Layer", "Rank", "Parameters", "Cut away", "Score"]}
            rows={report.layers
              .toSorted((one, other) => worthOf(other) - worthOf(one))
              .map((layer) => ({
                key: layer.name,
                cells: [
                  <span key="name" className="font-mono text-xs font-normal break-all">
                    {layer.name}
                  </span>,
                  String(layer.rank),
                  (layer.rank * layer.parameters_per_rank).toLocaleString("en"),
                  percent(layer.truncation_error),
                  measured(worthOf(layer)),
                ],
              }))}
          />
          <p className="mt-2 text-ink-soft">
            Cut away: share of the norm of what the layer had learned in the warm-up. Score: how much the loss would
            miss the layer.
          </p>
        </div>
      )}
    </details>
  );
}
