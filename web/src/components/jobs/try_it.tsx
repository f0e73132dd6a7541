"use client";

import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { Responder } from "@/gen/reeltune/trainer/v1/inference_service_pb";
import type { TrainingJob } from "@/gen/reeltune/scheduler/v1/training_job_pb";
import { clips, inference } from "@/lib/clients";
import { explain, type Problem as Refusal } from "@/lib/errors";
import { untilRead } from "@/lib/reachable";
import { bytes } from "@/lib/format";
import { mistakeIn, numberAs, untoldOf } from "@/lib/jobs/fields";
import { Button, INPUT, SelectField } from "../ui";
import { Untold } from "./form";
import { AnswerLengthField, MoreOptions, MOST_TEMPERATURE, TemperatureField } from "./options";

const LARGEST_BYTES = 3 * 1024 * 1024;
/** As the contract bounds them. */
const MOST_TOKENS = 2048;
/** The fields of the request that tell at their own place what is wrong with them. */
const KNOWN = ["responder", "max_new_tokens", "temperature", "dataset_clip.path"];

type Asked = Responder.BOTH | Responder.TUNED | Responder.BASE;
const VERBS: Record<Asked, string> = {
  [Responder.BOTH]: "Ask both",
  [Responder.TUNED]: "Ask the tuned model",
  [Responder.BASE]: "Ask the base model",
};

interface Wish {
  prompt: string;
  responder: Asked;
  tokens: string;
  temperature: string;
}

const AS_USUAL: Wish = { prompt: "Describe the video.", responder: Responder.BOTH, tokens: "", temperature: "" };

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
    refetchInterval: (query) => untilRead(query) || 10 * 60_000,
  });
  const [path, setPath] = useState("");
  const [file, setFile] = useState<File>();
  const [wish, setWish] = useState(AS_USUAL);
  const change = (part: Partial<Wish>) => setWish((former) => ({ ...former, ...part }));
  const [answers, setAnswers] = useState<Answers>();
  const [problem, setProblem] = useState<Refusal>();
  const [asked, setAsked] = useState<Asked>(Responder.BOTH);
  const [isBusy, setBusy] = useState(false);
  const stop = useRef<AbortController>(undefined);
  useEffect(() => () => stop.current?.abort(), []);
  const chosen = list.data?.find((clip) => clip.path === path) ?? list.data?.[0];

  async function ask(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    setProblem(undefined);
    setAnswers({});
    setAsked(wish.responder);
    const { signal } = (stop.current = new AbortController());
    try {
      const clip = file
        ? { case: "clipData" as const, value: new Uint8Array(await file.arrayBuffer()) }
        : { case: "datasetClip" as const, value: { datasetId: job.datasetId, path: chosen?.path ?? "" } };
      const headers = { "x-reeltune-job": job.id };
      for await (const { responder, piece } of inference.generate(
        { jobId: job.id, clip, ...requestOf(wish) },
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
      if (!signal.aborted) setProblem(explain(error));
    }
    setBusy(false);
  }

  const take = (one: File | undefined) => {
    const tooLarge = one && one.size > LARGEST_BYTES;
    setProblem(
      tooLarge
        ? {
            reason: "",
            message: `${one.name} has ${bytes(one.size)}; at most ${bytes(LARGEST_BYTES)} can be asked about directly. Put it into a dataset.`,
            fields: {},
          }
        : undefined,
    );
    setFile(one && one.size <= LARGEST_BYTES ? one : undefined);
  };
  const source = file ? undefined : chosen;
  return (
    <form onSubmit={(event) => void ask(event)} className="grid gap-5 lg:grid-cols-[18rem_1fr]">
      <div className="space-y-4">
        <SelectField
          label="Clip of the dataset"
          value={chosen?.path ?? ""}
          onChange={(value) => (setPath(value), setFile(undefined))}
          hint={list.data?.length === 0 && "The dataset has none."}
          problem={list.isError ? explain(list.error).message : problem?.fields["dataset_clip.path"]}
        >
          {list.data?.map((clip) => (
            <option key={clip.path}>{clip.path}</option>
          ))}
        </SelectField>
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
            value={wish.prompt}
            maxLength={8192}
            onChange={(event) => change({ prompt: event.target.value })}
          />
        </div>
        <AskOptions wish={wish} onChange={change} problem={problem} />
        <div className="flex gap-2">
          <Button
            type="submit"
            look="primary"
            isBusy={isBusy}
            disabled={!wish.prompt.trim() || (!file && !chosen) || isMistaken(wish)}
          >
            {VERBS[wish.responder]}
          </Button>
          {isBusy && <Button onClick={() => stop.current?.abort()}>Stop</Button>}
        </div>
        <Untold title="It was not answered" texts={problem ? untoldOf(problem, KNOWN) : []} />
        {isBusy && Object.keys(answers ?? {}).length === 0 && (
          <p className="text-sm text-ink-soft">The first question loads the model, which takes a while.</p>
        )}
        {answers && (
          <div className="grid gap-4 sm:grid-cols-2" aria-live="polite">
            {asked !== Responder.BASE && <Answer title="Tuned" answer={answers[Responder.TUNED]} isBusy={isBusy} />}
            {asked !== Responder.TUNED && <Answer title="Base" answer={answers[Responder.BASE]} isBusy={isBusy} />}
          </div>
        )}
      </div>
    </form>
  );
}

function AskOptions({
  wish,
  onChange,
  problem,
}: {
  wish: Wish;
  onChange: (part: Partial<Wish>) => void;
  problem: Refusal | undefined;
}) {
  const fields = problem?.fields ?? {};
  return (
    <MoreOptions isMistaken={isMistaken(wish) || KNOWN.some((name) => fields[name])}>
      <SelectField
        label="Who answers"
        value={String(wish.responder)}
        onChange={(value) => onChange({ responder: Number(value) as Asked })}
        problem={fields.responder}
      >
        <option value={Responder.BOTH}>Both, side by side</option>
        <option value={Responder.TUNED}>The tuned model</option>
        <option value={Responder.BASE}>The base model</option>
      </SelectField>
      <AnswerLengthField
        most={MOST_TOKENS}
        value={wish.tokens}
        onChange={(tokens) => onChange({ tokens })}
        problem={fields.max_new_tokens}
      />
      <TemperatureField
        value={wish.temperature}
        onChange={(temperature) => onChange({ temperature })}
        problem={fields.temperature}
      />
    </MoreOptions>
  );
}

function isMistaken({ tokens, temperature }: Wish): boolean {
  return Boolean(mistakeIn(tokens, 1, MOST_TOKENS) ?? mistakeIn(temperature, 0, MOST_TEMPERATURE, false));
}

function requestOf({ prompt, responder, tokens, temperature }: Wish) {
  return { prompt, responder, ...numberAs("maxNewTokens", tokens), ...numberAs("temperature", temperature) };
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
        dir="auto"
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
