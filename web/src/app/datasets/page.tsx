import type { Metadata } from "next";
import { DatasetList } from "@/components/datasets/dataset_list";

export const metadata: Metadata = { title: "Datasets" };

export default function Page() {
  return <DatasetList />;
}
