import type { Metadata } from "next";
import { Suspense } from "react";
import { ModelPage } from "@/components/models/model_page";

export const metadata: Metadata = { title: "Model" };

export default function Page() {
  return (
    <Suspense>
      <ModelPage />
    </Suspense>
  );
}
