"use client";

import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { Responder } from "@/gen/reeltune/trainer/v1/inference_service_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { clips, inference } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { bytes } from "@/lib/format";
import { Button, INPUT, Problem } from "../ui";

const LARGEST_BYTES = 3 * 1024 * 1024;
type Answers = Partial<Record<Responder, { text: string; isWhole: boolean }>>;

/** Asks the base model and the tuned one about the same clip, side by side, word by word. */
export function TryIt({ job }: { job: TrainingJob }) {
  const list = useQuery({
    queryKey: ["try-clips", job.datasetId],
    queryFn: async ({ signal }) =>
      (await clips.listClips({ datasetId: job.datasetId, pageSize: 200 }, { signal })).clips,
    retry: false,
    // The addresses of posters and clips end after a quarter of an hour.
    staleTime: 10 * 60_000,
    refetchInterval: 10 * 60_000,
  });
  const [path, setPath] = useState("");
  const [file, setFile] = useState<File>();
  const [prompt, setPrompt] = useState("Describe the video.");
  const [answers, setAnswers] = useState<Answers>();
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const stop = useRef<AbortController>(undefined);
  useEffect(() => () => stop.current?.abort(), []);
  const chosen = list.data?.find((clip) => clip.path === path) ?? list.data?.[0];

  async function ask(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    setAnswers({});
    const { signal } = (stop.current = new AbortController());
    try {
      const clip = file
        ? { case: "clipData" as const, value: new Uint8Array(await file.arrayBuffer()) }
        : { case: "datasetClip" as const, value: { datasetId: job.datasetId, path: chosen?.path ?? "" } };
      const headers = { "x-reeltune-job": job.id };
      for await (const { responder, piece } of inference.generate(
        { jobId: job.id, prompt, clip, responder: Responder.BOTH },
        { headers, signal },
      )) {
        setAnswers((former) => {
          const said = former?.[responder]?.text ?? "";
          const next =
            piece.case === "end"
              ? { text: piece.value.text, isWhole: true }
              : { text: said + (piece.value ?? ""), isWhole: false };
          return { ...former, [responder]: next };
        });
      }
    } catch (error) {
      if (!signal.aborted) setProblem(explain(error).message);
    }
    setBusy(false);
  }

  const take = (one: File | undefined) => {
    setProblem(
      one && one.size > LARGEST_BYTES
        ? `${one.name} has ${bytes(one.size)}; at most ${bytes(LARGEST_BYTES)} can be asked about directly. Put it into a dataset.`
        : "",
    );
    setFile(one && one.size <= LARGEST_BYTES ? one : undefined);
  };
  const source = file ? undefined : chosen;
  return (
    <form onSubmit={(event) => void ask(event)} className="grid gap-5 lg:grid-cols-[18rem_1fr]">
      <div className="space-y-4">
        <div>
          <label htmlFor="try-clip" className="mb-1 block text-sm font-medium">
            Clip of the dataset
          </label>
          <select
            id="try-clip"
            className={INPUT}
            value={chosen?.path ?? ""}
            disabled={!list.data?.length}
            onChange={(event) => (setPath(event.target.value), setFile(undefined))}
          >
            {list.data?.map((clip) => (
              <option key={clip.path}>{clip.path}</option>
            ))}
          </select>
        </div>
        <div>
          <label htmlFor="try-file" className="mb-1 block text-sm font-medium">
            or one of yours
          </label>
          <input
            id="try-file"
            type="file"
            accept="video/*"
            onChange={(event) => take(event.target.files?.[0])}
            className="w-full text-sm file:mr-3 file:rounded-lg file:border file:border-line-strong file:bg-panel file:px-3 file:py-1.5 file:text-ink"
          />
        </div>
        {source && (
          <video
            key={source.path}
            src={source.isBrowserPlayable ? source.url : source.proxyUrl}
            poster={source.posterUrl || undefined}
            controls
            muted
            playsInline
            preload="none"
            aria-label={source.path}
            className="aspect-video w-full rounded-lg border border-line bg-raised"
          />
        )}
      </div>
      <div className="space-y-4">
        <div>
          <label htmlFor="try-prompt" className="mb-1 block text-sm font-medium">
            Question
          </label>
          <textarea
            id="try-prompt"
            rows={2}
            className={INPUT}
            value={prompt}
            maxLength={8192}
            onChange={(event) => setPrompt(event.target.value)}
          />
        </div>
        <div className="flex gap-2">
          <Button type="submit" look="primary" isBusy={isBusy} disabled={!prompt.trim() || (!file && !chosen)}>
            Ask both
          </Button>
          {isBusy && <Button onClick={() => stop.current?.abort()}>Stop</Button>}
        </div>
        {problem && <Problem>{problem}</Problem>}
        {isBusy && !answers?.[Responder.TUNED] && (
          <p className="text-sm text-ink-soft">The first question loads the model, which takes a while.</p>
        )}
        {answers && (
          <div className="grid gap-4 sm:grid-cols-2" aria-live="polite">
            <Answer title="Tuned" answer={answers[Responder.TUNED]} isBusy={isBusy} />
            <Answer title="Base" answer={answers[Responder.BASE]} isBusy={isBusy} />
          </div>
        )}
      </div>
    </form>
  );
}

function Answer({
  title,
  answer,
  isBusy,
}: {
  title: string;
  answer: { text: string; isWhole: boolean } | undefined;
  isBusy: boolean;
}) {
  const state = answer?.isWhole ? "" : isBusy ? (answer ? " …" : "is thinking …") : "was cut";
  return (
    <div className="rounded-lg border border-line bg-ground p-4">
      <h2 className="mb-1 text-sm font-semibold text-ink-soft">{title}</h2>
      <p
        className="break-words whitespace-pre-wrap"
        data-answer={title.toLowerCase()}
        data-whole={answer?.isWhole ?? false}
      >
        {answer?.isWhole && !answer.text.trim() ? <em className="text-ink-soft">said nothing</em> : answer?.text}
        {state && <span className="text-ink-soft">{state}</span>}
      </p>
    </div>
  );
}
