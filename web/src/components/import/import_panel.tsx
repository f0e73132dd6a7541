"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useState } from "react";
import { type Import, ImportState } from "@/gen/reeltune/catalog/v1/import_pb";
import { useAttempt } from "@/lib/attempt";
import { imports } from "@/lib/clients";
import { bytes } from "@/lib/format";
import { useRequestId } from "@/lib/request_id";
import { follow } from "@/lib/watch";
import { Bar, Button, Chip, Field, Problem, SelectField, type Tone, useOpenedBy } from "../ui";

type Kind = "hub" | "bucket" | "url" | "annotations";

const KINDS: Record<Kind, { name: string; label: string; hint: string }> = {
  hub: { name: "A hub", label: "Repository", hint: "Such as org/name. Only where the operator allows a hub." },
  bucket: {
    name: "A bucket",
    label: "Address of the bucket",
    hint: "Such as s3://bucket/prefix, readable by everybody; register storage for others by `reeltune storage`.",
  },
  annotations: {
    name: "Rows that name addresses",
    label: "Address of the annotation file",
    hint: "The clips that its rows name by https are fetched, too.",
  },
  url: { name: "An https address", label: "Address of the file", hint: "One file; only public addresses are reached." },
};

/** Has the service fetch files by itself: nothing passes through the browser. */
export function ImportPanel({ parentId, onArrived }: { parentId: string; onArrived: () => void }) {
  const client = useQueryClient();
  const isDataset = parentId.startsWith("ds_");
  const [kind, setKind] = useState<Kind>(isDataset ? "bucket" : "hub");
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const list = useQuery({
    queryKey: ["imports", parentId],
    queryFn: async ({ signal }) => (await imports.listImports({ parentId }, { signal })).imports,
  });
  const running = list.data?.find((one) => one.state === ImportState.RUNNING)?.id ?? "";
  const fold = useOpenedBy(running !== "");
  useEffect(() => {
    if (!running) return;
    const stop = new AbortController();
    const see = (seen: Import | undefined) =>
      seen &&
      client.setQueryData<Import[]>(["imports", parentId], (all) =>
        all?.map((one) => (one.id === seen.id ? seen : one)),
      );
    const open = (signal: AbortSignal) => imports.watchImport({ importId: running }, { signal });
    follow({ open, onMessage: (message) => see(message.dataImport) }, stop.signal)
      .then(onArrived)
      .catch(() => void list.refetch());
    return () => stop.abort();
    // oxlint-disable-next-line react-hooks/exhaustive-deps -- one watch for each import that runs
  }, [running]);

  const begin = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    const place = String(data.get("place")).trim();
    void attempt(async () => {
      const wanted = { parentId, source: { source: sourceOf(kind, place, String(data.get("revision") ?? "")) } };
      await imports.createImport({ ...wanted, requestId: requestId.for(wanted) });
      requestId.done();
      await list.refetch();
    });
  };
  return (
    <details ref={fold} className="rounded-xl border border-line bg-panel p-5">
      <summary className="font-semibold">Have it fetched from elsewhere</summary>
      <form onSubmit={begin} className="mt-4 grid gap-4 sm:grid-cols-[12rem_1fr_auto]">
        <SelectField
          label="From"
          value={kind}
          onChange={(value) => setKind(value as Kind)}
          // The service complains about the source that was chosen, which is told beside it.
          problem={undefined}
        >
          {Object.entries(KINDS)
            .filter(([value]) => isDataset || value !== "annotations")
            .map(([value, { name }]) => (
              <option key={value} value={value}>
                {name}
              </option>
            ))}
        </SelectField>
        <Field
          label={KINDS[kind].label}
          name="place"
          required
          hint={KINDS[kind].hint}
          problem={problem && Object.values(problem.fields)[0]}
        />
        {kind === "hub" && <Field label="Revision" name="revision" placeholder="main" className="sm:w-32" />}
        <div className="sm:col-span-3">
          <Button type="submit" isBusy={isBusy}>
            Fetch
          </Button>
        </div>
      </form>
      {problem && Object.keys(problem.fields).length === 0 && <Problem>{problem.message}</Problem>}
      <ul className="mt-4 space-y-3 empty:hidden">
        {list.data?.map((one) => (
          <Row key={one.id} found={one} />
        ))}
      </ul>
    </details>
  );
}

function sourceOf(kind: Kind, place: string, revision: string) {
  if (kind === "hub") return { case: "hub" as const, value: { repository: place, revision } };
  if (kind === "bucket") return { case: "bucket" as const, value: { uri: place } };
  if (kind === "annotations")
    return { case: "annotations" as const, value: { location: { case: "url" as const, value: place } } };
  return { case: "url" as const, value: { url: place } };
}

function placeOf({ source }: Import): string {
  const from = source?.source;
  if (from?.case === "hub") return from.value.repository;
  if (from?.case === "bucket") return from.value.uri;
  if (from?.case === "url") return from.value.url;
  if (from?.case === "annotations") return from.value.location.value ?? "";
  return from?.case === "folder" ? from.value.path : "";
}

const STATES: Record<ImportState, { tone: Tone; name: string }> = {
  [ImportState.UNSPECIFIED]: { tone: "plain", name: "unknown" },
  [ImportState.RUNNING]: { tone: "accent", name: "fetching" },
  [ImportState.COMPLETED]: { tone: "good", name: "done" },
  [ImportState.FAILED]: { tone: "bad", name: "failed" },
  [ImportState.CANCELLED]: { tone: "plain", name: "cancelled" },
};

function Row({ found }: { found: Import }) {
  const { tone, name } = STATES[found.state];
  const place = placeOf(found);
  const { counts } = found;
  return (
    <li className="text-sm">
      <div className="mb-1 flex flex-wrap items-center gap-3">
        <Chip tone={tone} isLive={found.state === ImportState.RUNNING}>
          {name}
        </Chip>
        <span className="min-w-0 flex-1 font-mono text-[0.8125rem] break-all">{place}</span>
        {counts && (
          <span className="text-ink-soft tabular-nums">{`${counts.filesDone} of ${counts.files} files · ${bytes(counts.bytesDone)}`}</span>
        )}
      </div>
      {found.state === ImportState.RUNNING && counts && (
        <Bar label={place} value={Number(counts.bytesDone)} max={Number(counts.bytes)} />
      )}
      {found.errorMessage && <p className="text-bad">{found.errorMessage}</p>}
    </li>
  );
}
