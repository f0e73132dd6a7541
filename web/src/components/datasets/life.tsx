"use client";

import Link from "next/link";
import { useRouter } from "next/navigation";
import { useRef } from "react";
import { type Dataset, DatasetState } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { useAttempt } from "@/lib/attempt";
import { datasets, versions } from "@/lib/clients";
import { useRequestId } from "@/lib/request_id";
import { Dialog } from "../dialog";
import { Button, buttonClass, Problem } from "../ui";

/** What may be done with a dataset as a whole. */
export function Life({ dataset }: { dataset: Dataset }) {
  const router = useRouter();
  const dialog = useRef<HTMLDialogElement>(null);
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
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
      {problem && !dialog.current?.open && <Problem>{problem.message}</Problem>}
      <Dialog ref={dialog} title={`Delete ${dataset.name}?`}>
        <p className="mb-4 text-sm text-ink-soft">
          It can be brought back for 7 days; then its files go. A dataset that a running job uses is not deleted.
        </p>
        {problem && <Problem>{problem.message}</Problem>}
        <div className="mt-4 flex justify-end gap-2">
          <Button look="quiet" onClick={() => dialog.current?.close()}>
            Keep it
          </Button>
          <Button look="danger" isBusy={isBusy} onClick={() => void remove()}>
            Delete
          </Button>
        </div>
      </Dialog>
    </>
  );
}
