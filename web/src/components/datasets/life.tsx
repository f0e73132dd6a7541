"use client";

import Link from "next/link";
import { useRouter } from "next/navigation";
import { useRef, useState } from "react";
import { type Dataset, DatasetState } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { datasets, versions } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { useRequestId } from "@/lib/request_id";
import { Button, buttonClass, Problem } from "../ui";

/** What may be done with a dataset as a whole. */
export function Life({ dataset }: { dataset: Dataset }) {
  const router = useRouter();
  const dialog = useRef<HTMLDialogElement>(null);
  const [isBusy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  const requestId = useRequestId();

  async function attempt(work: () => Promise<void>) {
    setBusy(true);
    setProblem("");
    try {
      await work();
    } catch (error) {
      setProblem(explain(error).message);
    }
    setBusy(false);
  }
  const renew = () =>
    attempt(async () => {
      const wanted = { datasetId: dataset.id };
      const made = await versions.createDatasetVersion({ ...wanted, requestId: requestId.for(wanted) });
      requestId.done();
      if (made.dataset) router.push(`/datasets/view?id=${made.dataset.id}`);
    });
  const remove = () =>
    attempt(async () => {
      await datasets.deleteDataset({ datasetId: dataset.id });
      router.replace("/datasets");
    });

  return (
    <>
      {dataset.state === DatasetState.READY && (
        <Link href={`/jobs/new?dataset=${dataset.id}`} className={buttonClass("primary")}>
          Train from it
        </Link>
      )}
      {dataset.state === DatasetState.READY && (
        <Button isBusy={isBusy} onClick={() => void renew()} title="Same files, open for changes">
          New version
        </Button>
      )}
      <Button look="danger" onClick={() => dialog.current?.showModal()}>
        Delete
      </Button>
      {problem && !dialog.current?.open && <Problem>{problem}</Problem>}
      <dialog
        ref={dialog}
        aria-labelledby="delete-dataset"
        className="m-auto w-full max-w-md rounded-xl border border-line bg-panel p-6 text-ink backdrop:bg-black/50"
      >
        <h2 id="delete-dataset" className="text-lg font-semibold">
          Delete {dataset.name}?
        </h2>
        <p className="my-3 text-sm text-ink-soft">
          It can be brought back for 7 days; then its files go. A dataset that a running job uses is not deleted.
        </p>
        {problem && <Problem>{problem}</Problem>}
        <div className="mt-4 flex justify-end gap-2">
          <Button look="quiet" onClick={() => dialog.current?.close()}>
            Keep it
          </Button>
          <Button look="danger" isBusy={isBusy} onClick={() => void remove()}>
            Delete
          </Button>
        </div>
      </dialog>
    </>
  );
}
