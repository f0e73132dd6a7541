import Link from "next/link";

export default function NotFound() {
  return (
    <main className="mx-auto max-w-xl p-8">
      <h1 className="text-2xl font-semibold">There is no such page</h1>
      <p className="mt-2 text-ink-soft">
        Go to{" "}
        <Link href="/datasets" className="text-accent underline underline-offset-4">
          your datasets
        </Link>
        .
      </p>
    </main>
  );
}
