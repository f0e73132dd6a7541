"use client";

import { useQuery } from "@tanstack/react-query";
import { Download } from "lucide-react";
import { training } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { bytes } from "@/lib/format";
import { Loading, Problem } from "../ui";

/** The adapter's files. Their addresses end after a quarter of an hour, so they are asked for again before. */
export function ArtifactPanel({ jobId, name }: { jobId: string; name: string }) {
  const found = useQuery({
    queryKey: ["artifact", jobId],
    queryFn: async ({ signal }) => (await training.getArtifact({ jobId }, { signal })).artifact,
    refetchInterval: 10 * 60_000,
  });
  if (found.isPending) return <Loading what="Looking for the adapter …" />;
  if (found.isError) return <Problem>{explain(found.error).message}</Problem>;
  return (
    <>
      <p className="mb-3 text-sm text-ink-soft">
        {`${bytes(found.data?.sizeBytes ?? 0)} in all. `}Plain files of PEFT: put them into one folder and load it with
        PeftModel.from_pretrained. The README among them says how.
      </p>
      <ul className="divide-y divide-line text-sm">
        {found.data?.files.map((file) => (
          <li key={file.path} className="flex items-center gap-4 py-2">
            <a
              href={file.url}
              download={file.path.split("/").at(-1)}
              className="flex min-w-0 flex-1 items-center gap-2 font-mono text-[0.8125rem] break-all text-accent underline underline-offset-4"
            >
              <Download aria-hidden className="size-4 shrink-0" />
              {file.path}
            </a>
            <span className="text-ink-soft tabular-nums">{bytes(file.sizeBytes)}</span>
          </li>
        ))}
      </ul>
      <p className="mt-3 text-sm text-ink-soft">
        All at once:{" "}
        <code className="font-mono text-xs">
          reeltune train download {jobId} --to {/^[\w.-]+$/.test(name) ? name : "adapter"}
        </code>
      </p>
    </>
  );
}
