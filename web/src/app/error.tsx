"use client";

import { Button, Problem } from "@/components/ui";

/** What is shown where a page itself has a fault. */
export default function ErrorPage({ error, reset }: { error: Error; reset: () => void }) {
  return (
    <main className="mx-auto max-w-xl p-8">
      <h1 className="sr-only">This page has a fault</h1>
      <Problem title="This page has a fault" action={<Button onClick={reset}>Try again</Button>}>
        {error.message}
      </Problem>
    </main>
  );
}
