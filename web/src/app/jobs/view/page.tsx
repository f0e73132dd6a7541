import type { Metadata } from "next";
import { Suspense } from "react";
import { JobPage } from "@/components/jobs/job_page";

export const metadata: Metadata = { title: "Job" };

export default function Page() {
  return (
    <Suspense>
      <JobPage />
    </Suspense>
  );
}
