"use client";

import { useQuery } from "@tanstack/react-query";
import { useRouter } from "next/navigation";
import { useEffect, useState } from "react";
import { training } from "@/lib/clients";
import { type Draft, draftLike } from "@/lib/jobs/draft";
import { nameOf } from "@/lib/jobs/kinds";

const KEPT = "reeltune.job-draft";
/** Where a draft keeps the name of the job that it is like. */
const LIKE = "like";

/** What a page of a new job is opened with. */
export interface Opening {
  model: string;
  dataset: string;
  /** The job that the new one is to be like, or nothing. */
  like: string;
}

/** What is filled in, kept over a reload. */
export function useDraft({ model, dataset, like }: Opening) {
  const router = useRouter();
  const [draft, setDraft] = useState<Draft>({});
  const source = useQuery({
    queryKey: ["job", like],
    queryFn: async ({ signal }) => (await training.getTrainingJob({ jobId: like }, { signal })).job,
    enabled: like !== "",
  });
  const keep = (next: Draft) => {
    sessionStorage.setItem(KEPT, JSON.stringify(next));
    setDraft(next);
  };
  useEffect(() => {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "{}") as Draft;
    const chosen = Object.fromEntries(Object.entries({ model, dataset }).filter(([, value]) => value));
    // A name for the wish: a second click, or a retry after a lost answer, makes no second job.
    setDraft({ requestId: crypto.randomUUID(), ...kept, ...chosen });
    // oxlint-disable-next-line react-hooks/exhaustive-deps -- once, when the page opens
  }, []);
  useEffect(() => {
    if (!source.data || !like) return;
    keep({ ...draftLike(source.data), [LIKE]: nameOf(source.data), requestId: crypto.randomUUID() });
    // From here on it is a draft like any other: a reload keeps what was changed in it.
    router.replace("/jobs/new");
  }, [source.data, like, router]);
  return {
    draft,
    source,
    likeName: draft[LIKE],
    // Another wish, another name: the service refuses one name for two.
    change: (part: Draft) => keep({ ...draft, ...part, requestId: crypto.randomUUID() }),
    /** Empties the form, but for what the job is made of. */
    clear: () => {
      const of = { model: draft.model ?? "", dataset: draft.dataset ?? "", name: draft.name ?? "" };
      keep({ ...of, requestId: crypto.randomUUID() });
    },
    forget: () => sessionStorage.removeItem(KEPT),
  };
}
