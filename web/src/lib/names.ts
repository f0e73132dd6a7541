// The names of what jobs were made from, each asked for once whoever shows it.
import { datasets, models } from "@/lib/clients";

// What is deleted meanwhile, or shared no more, has no name to show.
const COMMON = { retry: false, staleTime: 60_000 } as const;

export function modelName(modelId: string) {
  return {
    ...COMMON,
    queryKey: ["name", modelId],
    queryFn: async () => (await models.getModel({ modelId })).model?.name ?? "",
  };
}

export function datasetName(datasetId: string) {
  return {
    ...COMMON,
    queryKey: ["name", datasetId],
    queryFn: async () => (await datasets.getDataset({ datasetId })).dataset?.name ?? "",
  };
}
