"use client";

import { useQuery } from "@tanstack/react-query";
import { MergeWeights } from "@/gen/reeltune/scheduler/v1/merge_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { count, measured, sentence } from "@/lib/format";
import { postTraining } from "@/lib/jobs/after_training";
import { percent } from "@/lib/jobs/evaluation";
import { mergeVerdict, WEIGHTS } from "@/lib/jobs/merge";
import { Unread } from "../unread";
import { ArtifactPanel } from "./artifact";
import { MeasureCard, Section, VerdictLine } from "./findings";

/** What a merge has made: whether it is what was trained, how far it is from it, and its files. */
export function MergeResult({ job }: { job: TrainingJob }) {
  const found = useQuery({
    queryKey: ["merge", job.id, job.attempt, job.state],
    queryFn: async ({ signal }) => (await postTraining.getMerge({ jobId: job.id }, { signal })).merge,
    staleTime: Infinity,
  });
  if (!found.data) return <Unread of={found} what="Reading the result …" />;
  const merge = found.data;
  const { adapterLogitDifference: near, baseLogitDifference: far, adapterLoss, mergedLoss } = merge;
  const farthest = Math.max(near, far, Number.MIN_VALUE);
  const highest = Math.max(adapterLoss, mergedLoss, Number.MIN_VALUE);
  const weights = WEIGHTS.find((one) => one.weights === merge.weights);
  return (
    <div className="space-y-8">
      <div className="space-y-2">
        <p className="text-sm text-ink-soft">
          {`${count(merge.layers, "layer")} changed, merged into: ${weights?.label.toLowerCase() ?? "other weights"}. Loaded again from what was written, and held against base and adapter.`}
        </p>
        <VerdictLine verdict={mergeVerdict(merge)} />
        {merge.notes.map((note) => (
          <VerdictLine key={note} verdict={{ tone: "warn", text: `${sentence(note)}.` }} />
        ))}
      </div>
      <div className="grid gap-4 lg:grid-cols-3">
        <MeasureCard
          title="Difference of logits"
          hint="The largest at each token of the references, on average"
          headline={measured(near)}
          bars={[
            { name: "To the adapter", text: measured(near), share: near / farthest, isStrong: true },
            { name: "To the base model", text: measured(far), share: far / farthest },
          ]}
        />
        <MeasureCard
          title="Same likeliest token"
          hint="At the tokens of the references"
          headline={percent(merge.adapterAgreement)}
          bars={[
            {
              name: "As the adapter",
              text: percent(merge.adapterAgreement),
              share: merge.adapterAgreement,
              isStrong: true,
            },
            { name: "As the base model", text: percent(merge.baseAgreement), share: merge.baseAgreement },
          ]}
        />
        <MeasureCard
          title="Loss"
          hint="Of a token of the references"
          headline={measured(mergedLoss)}
          bars={[
            { name: "Merged", text: measured(mergedLoss), share: mergedLoss / highest, isStrong: true },
            { name: "Base and adapter", text: measured(adapterLoss), share: adapterLoss / highest },
          ]}
        />
      </div>
      <p className="text-sm text-ink-soft">
        {`Error of the update: ${percent(merge.updateError)} of what was learned; layers are kept in bf16${merge.weights === MergeWeights.ORIGINAL ? ", and these began from other weights" : ""}.`}
      </p>
      <Section title="The model">
        <ArtifactPanel job={job} />
      </Section>
    </div>
  );
}
