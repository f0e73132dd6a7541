import type { Metadata } from "next";
import { Suspense } from "react";
import { NewJob } from "@/components/jobs/new_job";

export const metadata: Metadata = { title: "New job" };

export default function Page() {
  return (
    <Suspense>
      <NewJob />
    </Suspense>
  );
}
