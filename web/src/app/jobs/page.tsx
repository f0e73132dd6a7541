import type { Metadata } from "next";
import { Suspense } from "react";
import { JobList } from "@/components/jobs/job_list";

export const metadata: Metadata = { title: "Jobs" };

export default function Page() {
  return (
    <Suspense>
      <JobList />
    </Suspense>
  );
}
