import type { Metadata } from "next";
import { Suspense } from "react";
import { ComparePage } from "@/components/jobs/compare_page";

export const metadata: Metadata = { title: "Compare jobs" };

export default function Page() {
  return (
    <Suspense>
      <ComparePage />
    </Suspense>
  );
}
