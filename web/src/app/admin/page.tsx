import type { Metadata } from "next";
import { Suspense } from "react";
import { AdminPage } from "@/components/admin/admin_page";

export const metadata: Metadata = { title: "Admin" };

export default function Page() {
  return (
    <Suspense>
      <AdminPage />
    </Suspense>
  );
}
