import type { Metadata } from "next";
import { Suspense } from "react";
import { DatasetPage } from "@/components/datasets/dataset_page";

export const metadata: Metadata = { title: "Dataset" };

export default function Page() {
  return (
    <Suspense>
      <DatasetPage />
    </Suspense>
  );
}
