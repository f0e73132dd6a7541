"use client";

import { useSearchParams } from "next/navigation";
import { useState } from "react";
import { type Dataset, DatasetState } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { datasets } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { bytes, count, duration } from "@/lib/format";
import { useTitle } from "@/lib/title";
import { Bar, Button, Empty, Facts, Loading, PageTitle, Panel, Problem } from "../ui";
import { ImportPanel } from "../import/import_panel";
import { Upload } from "../upload/upload";
import { ClipGrid } from "./clip_grid";
import { FileList } from "./file_list";
import { Issues } from "./issues";
import { Life } from "./life";
import { Rows } from "./rows";
import { StateChip, takesFiles } from "./state";
import { useDataset } from "./use_dataset";

export function DatasetPage() {
  const id = useSearchParams().get("id") ?? "";
  const { data: dataset, error, isPending, isBroken, watchProblem, set, refetch } = useDataset(id);
  useTitle(dataset?.name);

  if (!id) return <Empty title="This address names no dataset" />;
  if (error && !dataset)
    return (
      <Problem action={<Button onClick={() => void refetch()}>Try again</Button>}>{explain(error).message}</Problem>
    );
  if (isPending || !dataset) return <Loading what="Loading the dataset …" />;
  const version = dataset.version > 1 ? `Version ${dataset.version}. ` : "";
  return (
    <>
      <PageTitle title={dataset.name} chip={<StateChip dataset={dataset} />} action={<Life dataset={dataset} />}>
        {version + dataset.description}
      </PageTitle>
      <div className="space-y-6">
        {watchProblem && <Problem>{watchProblem}</Problem>}
        {error && <Problem>{explain(error).message}</Problem>}
        <Panel>
          <Counts dataset={dataset} />
        </Panel>
        {dataset.state === DatasetState.PROCESSING && <Checking dataset={dataset} isBroken={isBroken} />}
        {dataset.state === DatasetState.ERROR && <Issues dataset={dataset} onChange={set} />}
        {takesFiles(dataset) && (
          <Upload
            parentId={id}
            accept="Clips, and one annotation file (CSV, JSON, JSON lines, or a text beside each clip)"
            onArrived={() => void refetch()}
          >
            <Check dataset={dataset} onChange={set} />
          </Upload>
        )}
        {takesFiles(dataset) && <ImportPanel parentId={id} onArrived={() => void refetch()} />}
        {takesFiles(dataset) && (
          <FileList parentId={id} files={Number(dataset.counts?.files ?? 0)} onChange={() => void refetch()} />
        )}
        {dataset.state === DatasetState.READY && Number(dataset.counts?.warnings) > 0 && (
          <Issues dataset={dataset} onChange={set} />
        )}
        {dataset.state === DatasetState.READY && <Rows datasetId={id} rows={Number(dataset.counts?.rows ?? 0)} />}
        {dataset.state !== DatasetState.PENDING && <ClipGrid dataset={dataset} />}
      </div>
    </>
  );
}

function Counts({ dataset }: { dataset: Dataset }) {
  const counts = dataset.counts;
  if (!counts) return null;
  const isUnknown = dataset.state === DatasetState.PENDING;
  const found = (text: string) => (isUnknown ? "not checked yet" : text);
  const facts: [string, string][] = [
    ["Files", Number(counts.files).toLocaleString("en")],
    ["Size", bytes(counts.sizeBytes)],
    ["Clips", found(Number(counts.clips).toLocaleString("en"))],
    ["Footage", found(duration(counts.durationSeconds))],
    ["Rows to train from", found(Number(counts.trainRows).toLocaleString("en"))],
    ["Rows held out", found(Number(counts.evalRows).toLocaleString("en"))],
  ];
  const left = Number(counts.quarantinedRows) + Number(counts.quarantinedClips);
  if (left > 0)
    facts.push(["In quarantine", `${count(counts.quarantinedRows, "row")}, ${count(counts.quarantinedClips, "clip")}`]);
  return <Facts facts={facts} />;
}

function Checking({ dataset, isBroken }: { dataset: Dataset; isBroken: boolean }) {
  const checked = Number(dataset.counts?.clipsChecked ?? 0);
  const clips = Number(dataset.counts?.clips ?? 0);
  return (
    <Panel title="Checking">
      <p className="mb-2 text-sm text-ink-soft">
        {isBroken
          ? "The connection broke; the check goes on, and this page finds it again."
          : `${checked.toLocaleString("en")} of ${count(clips, "clip")} decoded. Every frame is read, so that no clip can stop a training.`}
      </p>
      <Bar label="Clips decoded" value={checked} max={clips} />
      {/* Read out in tenths: the count moves with every clip. */}
      <p role="status" className="sr-only">
        {clips > 0 && `${Math.floor((checked / clips) * 10) * 10} % of the clips are decoded`}
      </p>
    </Panel>
  );
}

function Check({ dataset, onChange }: { dataset: Dataset; onChange: (dataset: Dataset | undefined) => void }) {
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  async function check() {
    setBusy(true);
    setProblem("");
    try {
      onChange((await datasets.validateDataset({ datasetId: dataset.id })).dataset);
    } catch (error) {
      setProblem(explain(error).message);
    }
    setBusy(false);
  }
  return (
    <>
      <Button
        look="primary"
        isBusy={isBusy}
        disabled={Number(dataset.counts?.files ?? 0) === 0}
        onClick={() => void check()}
      >
        Check clips and rows
      </Button>
      {problem && <Problem>{problem}</Problem>}
    </>
  );
}
