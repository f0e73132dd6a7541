"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import Link from "next/link";
import { useRouter, useSearchParams } from "next/navigation";
import { useEffect, useRef, useState } from "react";
import {
  ForwardCheckState,
  type Model,
  type ModelFacts,
  ModelPartKind,
  ModelState,
} from "@/gen/reeltune/catalog/v1/model_pb";
import { useAttempt } from "@/lib/attempt";
import { models } from "@/lib/clients";
import { explain } from "@/lib/errors";
import { bytes, parameters, sentence } from "@/lib/format";
import { useTitle } from "@/lib/title";
import { follow } from "@/lib/watch";
import { FileList } from "../datasets/file_list";
import { Dialog } from "../dialog";
import { Button, buttonClass, Empty, Facts, Loading, PageTitle, Panel, Problem } from "../ui";
import { Upload } from "../upload/upload";
import { ImportPanel } from "../import/import_panel";
import { StateChip } from "./state";

export function ModelPage() {
  const id = useSearchParams().get("id") ?? "";
  const { data: model, error, isPending, refetch, set, problem } = useModel(id);
  useTitle(model?.name);
  if (!id) return <Empty title="This address names no model" />;
  if (error && !model)
    return (
      <Problem action={<Button onClick={() => void refetch()}>Try again</Button>}>{explain(error).message}</Problem>
    );
  if (isPending || !model) return <Loading what="Loading the model …" />;
  const isOpen = model.state === ModelState.PENDING || model.state === ModelState.ERROR;
  return (
    <>
      <PageTitle title={model.name} chip={<StateChip model={model} />} action={<Life model={model} />}>
        {model.description}
      </PageTitle>
      <div className="space-y-6">
        {problem && <Problem>{problem}</Problem>}
        {error && <Problem>{explain(error).message}</Problem>}
        {model.state === ModelState.PROCESSING && (
          <Panel title="Checking">
            <Loading what="Files are compared with their digests, headers read, and one forward step is tried where the size allows it." />
          </Panel>
        )}
        {model.state === ModelState.ERROR && <Issues model={model} />}
        {isOpen && (
          <Upload
            parentId={id}
            accept="The model's folder: safetensors, config.json, tokenizer and processor"
            onArrived={() => void refetch()}
          >
            <Check model={model} onChange={set} />
          </Upload>
        )}
        {isOpen && <ImportPanel parentId={id} onArrived={() => void refetch()} />}
        {isOpen && <Files id={id} />}
        {model.facts?.architecture && <FactsPanel facts={model.facts} />}
        {model.state === ModelState.READY && <Forward model={model} />}
      </div>
    </>
  );
}

function useModel(id: string) {
  const client = useQueryClient();
  const [problem, setProblem] = useState("");
  const query = useQuery({
    queryKey: ["model", id],
    queryFn: async ({ signal }) => (await models.getModel({ modelId: id }, { signal })).model,
    enabled: id !== "",
  });
  const isChecking = query.data?.state === ModelState.PROCESSING;
  useEffect(() => {
    setProblem("");
    if (!isChecking) return;
    const stop = new AbortController();
    const open = (signal: AbortSignal) => models.watchModel({ modelId: id }, { signal });
    const onMessage = ({ model }: { model?: Model }) => void (model && client.setQueryData(["model", id], model));
    follow({ open, onMessage }, stop.signal).catch((error: unknown) => setProblem(explain(error).message));
    return () => stop.abort();
  }, [client, id, isChecking]);
  const set = (model: Model | undefined) => void (model && client.setQueryData(["model", id], model));
  return { ...query, set, problem };
}

/** A model does not say how many files it holds; the list does. */
function Files({ id }: { id: string }) {
  const client = useQueryClient();
  return <FileList parentId={id} onChange={() => void client.invalidateQueries({ queryKey: ["files", id] })} />;
}

function Check({ model, onChange }: { model: Model; onChange: (model: Model | undefined) => void }) {
  const { isBusy, problem, attempt } = useAttempt();
  return (
    <>
      <Button
        look="primary"
        isBusy={isBusy}
        onClick={() => void attempt(async () => onChange((await models.validateModel({ modelId: model.id })).model))}
      >
        Check the model
      </Button>
      {problem && <Problem>{problem.message}</Problem>}
    </>
  );
}

function Issues({ model }: { model: Model }) {
  return (
    <Panel title="What is wrong">
      <ul className="divide-y divide-line text-sm">
        {model.issues.map((issue, index) => (
          <li key={`${issue.file}:${issue.reason}:${index}`} className="py-3">
            <p className="font-mono text-[0.8125rem] break-all text-ink-soft">
              {issue.file || "the folder as a whole"}
            </p>
            <p className="font-medium break-words">{sentence(issue.message)}</p>
            <p className="break-words text-ink-soft">{sentence(issue.remedy)}</p>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

const PARTS: Record<ModelPartKind, string> = {
  [ModelPartKind.UNSPECIFIED]: "part",
  [ModelPartKind.VISION]: "Vision tower",
  [ModelPartKind.PROJECTOR]: "Projector",
  [ModelPartKind.LANGUAGE]: "Language model",
  [ModelPartKind.HEAD]: "Head",
};

function FactsPanel({ facts }: { facts: ModelFacts }) {
  return (
    <Panel title={facts.architecture}>
      <Facts
        facts={[
          ["Parameters", parameters(facts.parameterCount).replace(" parameters", "")],
          ["Files", bytes(facts.sizeBytes)],
          ["In 4 bits", bytes(facts.memory4bitBytes)],
          ["In 16 bits", bytes(facts.memory16bitBytes)],
          ["Context", facts.contextLength ? `${Number(facts.contextLength).toLocaleString("en")} tokens` : "not told"],
          ["Frames of a clip", facts.maxFrames ? `at most ${facts.maxFrames}` : "no limit"],
        ]}
      />
      <table className="mt-5 w-full text-left text-sm">
        <thead className="text-ink-soft">
          <tr>
            <th className="py-1 pr-4 font-medium">Part</th>
            <th className="py-1 pr-4 font-medium">Parameters</th>
            <th className="py-1 font-medium">Layers that an adapter can be trained for</th>
          </tr>
        </thead>
        <tbody>
          {facts.parts.map((part) => (
            <tr key={part.kind} className="border-t border-line align-top">
              <td className="py-2 pr-4 whitespace-nowrap">{PARTS[part.kind]}</td>
              <td className="py-2 pr-4 whitespace-nowrap tabular-nums">
                {parameters(part.parameterCount).replace(" parameters", "")}
              </td>
              <td className="py-2">
                {part.linearLayerCount}
                {part.loraModules.length > 0 && (
                  <span className="ml-2 font-mono text-xs break-words text-ink-soft">
                    {part.loraModules.join(", ")}
                  </span>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}

function Forward({ model }: { model: Model }) {
  const check = model.forwardCheck;
  if (!check || check.state === ForwardCheckState.NOT_RUN) return null;
  const isPassed = check.state === ForwardCheckState.PASSED;
  return (
    <p className="text-sm text-ink-soft">
      {isPassed
        ? "One forward step on a tiny clip, in 4 bits, gave a sound loss."
        : `No forward step was tried: ${check.message}`}
    </p>
  );
}

function Life({ model }: { model: Model }) {
  const router = useRouter();
  const dialog = useRef<HTMLDialogElement>(null);
  const { isBusy, problem, attempt } = useAttempt();
  const remove = () =>
    attempt(async () => {
      await models.deleteModel({ modelId: model.id });
      router.replace("/models");
    });
  return (
    <>
      {model.state === ModelState.READY && (
        <Link href={`/jobs/new?model=${model.id}`} className={buttonClass("primary")}>
          Train from it
        </Link>
      )}
      <Button look="danger" onClick={() => dialog.current?.showModal()}>
        Delete
      </Button>
      <Dialog ref={dialog} title={`Delete ${model.name}?`}>
        <p className="mb-4 text-sm text-ink-soft">
          It can be brought back for 7 days; then its files go. Adapters that were trained from it stay.
        </p>
        {problem && <Problem>{problem.message}</Problem>}
        <div className="flex justify-end gap-2">
          <Button look="quiet" onClick={() => dialog.current?.close()}>
            Keep it
          </Button>
          <Button look="danger" isBusy={isBusy} onClick={() => void remove()}>
            Delete
          </Button>
        </div>
      </Dialog>
    </>
  );
}
