"use client";

import { useInfiniteQuery } from "@tanstack/react-query";
import { Play } from "lucide-react";
import { useState } from "react";
import type { Dataset } from "@/gen/reeltune/catalog/v1/dataset_pb";
import { DatasetState } from "@/gen/reeltune/catalog/v1/dataset_pb";
import type { Clip } from "@/gen/reeltune/catalog/v1/sample_pb";
import { clips } from "@/lib/clients";
import { untilRead } from "@/lib/reachable";
import { explain } from "@/lib/errors";
import { duration } from "@/lib/format";
import { Button, Panel, Problem } from "../ui";

const PAGE = 24;

export function ClipGrid({ dataset }: { dataset: Dataset }) {
  // While clips are being decoded the grid grows with them, a few refreshes for a thousand clips.
  const checked = Number(dataset.counts?.clipsChecked ?? 0);
  const age = dataset.state === DatasetState.PROCESSING ? Math.ceil(checked / 50) : dataset.etag;
  const list = useInfiniteQuery({
    queryKey: ["of-dataset", dataset.id, "clips", age],
    queryFn: ({ pageParam, signal }) =>
      clips.listClips({ datasetId: dataset.id, pageSize: PAGE, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    placeholderData: (former) => former,
    // The addresses of posters and clips end after a quarter of an hour.
    staleTime: 10 * 60_000,
    refetchInterval: (query) => untilRead(query) || 10 * 60_000,
  });
  const found = list.data?.pages.flatMap((page) => page.clips) ?? [];
  const problem = list.error && <Problem>{explain(list.error).message}</Problem>;
  if (found.length === 0) return problem;
  return (
    <Panel title="Clips">
      {problem && <div className="mb-4">{problem}</div>}
      <ul className="grid grid-cols-2 gap-4 sm:grid-cols-3 xl:grid-cols-4">
        {found.map((clip) => (
          <ClipCard key={clip.path} clip={clip} />
        ))}
      </ul>
      {list.hasNextPage && (
        <Button className="mt-4" isBusy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
          Show more
        </Button>
      )}
    </Panel>
  );
}

function ClipCard({ clip }: { clip: Clip }) {
  const [isPlaying, setPlaying] = useState(false);
  const source = clip.isBrowserPlayable ? clip.url : clip.proxyUrl;
  const facts = `${clip.width} × ${clip.height} · ${duration(clip.durationSeconds)} · ${clip.fps.toFixed(0)} fps · ${clip.codec}`;
  return (
    <li>
      <div className="relative aspect-video overflow-hidden rounded-lg border border-line bg-raised">
        {isPlaying ? (
          <video
            src={source}
            poster={clip.posterUrl || undefined}
            controls
            autoPlay
            muted={!clip.hasAudio}
            playsInline
            className="size-full object-contain"
            aria-label={clip.path}
          />
        ) : (
          <>
            {clip.posterUrl && <img src={clip.posterUrl} alt="" loading="lazy" className="size-full object-contain" />}
            {source && (
              <button
                type="button"
                onClick={() => setPlaying(true)}
                aria-label={`Play ${clip.path}`}
                className="group absolute inset-0 grid place-items-center"
              >
                <span className="grid size-10 place-items-center rounded-full bg-black/65 text-white transition group-hover:scale-110">
                  <Play aria-hidden className="size-4 fill-current" />
                </span>
              </button>
            )}
          </>
        )}
      </div>
      <p className="mt-1.5 truncate text-sm font-medium" title={clip.path}>
        {clip.path}
      </p>
      <p className="text-xs text-ink-soft">{facts}</p>
    </li>
  );
}
