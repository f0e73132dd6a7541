"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { type Dataset, DatasetState } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { datasets } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { follow } from "@/lib/watch";

/** The dataset as it is, followed live while it is being checked. */
export function useDataset(id: string) {
  const client = useQueryClient();
  const [isBroken, setBroken] = useState(false);
  const [watchProblem, setWatchProblem] = useState("");
  const query = useQuery({
    queryKey: ["dataset", id],
    queryFn: async ({ signal }) => (await datasets.getDataset({ datasetId: id }, { signal })).dataset,
    enabled: id !== "",
  });
  const isChecking = query.data?.state === DatasetState.PROCESSING;

  useEffect(() => {
    setWatchProblem("");
    if (!isChecking) return;
    const stop = new AbortController();
    const see = (dataset: Dataset | undefined) => {
      if (!dataset) return;
      client.setQueryData(["dataset", id], dataset);
      if (dataset.state !== DatasetState.PROCESSING) void client.invalidateQueries({ queryKey: ["of-dataset", id] });
    };
    const open = (signal: AbortSignal) => datasets.watchDataset({ datasetId: id }, { signal });
    follow({ open, onMessage: (message) => see(message.dataset), onBroken: setBroken }, stop.signal).catch(
      (error: unknown) => setWatchProblem(explain(error).message),
    );
    return () => {
      stop.abort();
      setBroken(false);
    };
  }, [client, id, isChecking]);

  const set = (dataset: Dataset | undefined) => dataset && client.setQueryData(["dataset", id], dataset);
  return { ...query, isBroken, watchProblem, set };
}
