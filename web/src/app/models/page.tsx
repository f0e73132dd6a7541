import type { Metadata } from "next";
import { Suspense } from "react";
import { ModelList } from "@/components/models/model_list";

export const metadata: Metadata = { title: "Models" };

export default function Page() {
  return (
    <Suspense>
      <ModelList />
    </Suspense>
  );
}
