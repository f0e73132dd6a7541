"use client";

import { useRouter } from "next/navigation";
import { useEffect } from "react";
import { Loading } from "@/components/ui";

export default function Page() {
  const router = useRouter();
  useEffect(() => router.replace("/datasets"), [router]);
  return (
    <main className="p-8">
      <h1 className="sr-only">Reeltune</h1>
      <Loading what="One moment …" />
    </main>
  );
}
