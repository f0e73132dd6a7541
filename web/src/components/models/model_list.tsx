"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useInfiniteQuery } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { type FormEvent, useRef } from "react";
import type { Model } from "@/gen/reeltune/catalog/v1/model_pb";
import { useAttempt } from "@/lib/attempt";
import { models } from "@/lib/clients";
import { ago, bytes, parameters } from "@/lib/format";
import { useRequestId } from "@/lib/request_id";
import { Dialog } from "../dialog";
import { PagedList } from "../paged_list";
import { Button, Empty, Field, PageTitle, Problem } from "../ui";
import { StateChip } from "./state";

export function ModelList() {
  const list = useInfiniteQuery({
    queryKey: ["models"],
    queryFn: ({ pageParam, signal }) => models.listModels({ pageSize: 50, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
  });
  const found = list.data?.pages.flatMap((page) => page.models) ?? [];
  return (
    <>
      <PageTitle title="Models" action={<NewModel />}>
        Base models to tune: safetensors, configuration, tokenizer and processor. Nothing in them is ever executed.
      </PageTitle>
      <PagedList
        list={list}
        what="models"
        items={found}
        row={Row}
        empty={
          <Empty title="No model yet">
            <p>
              Register one, then drop its folder, or have the service fetch it from a bucket or, where the operator
              allows it, from a model hub.
            </p>
          </Empty>
        }
      />
    </>
  );
}

function Row({ item: model }: { item: Model }) {
  const { facts } = model;
  return (
    <li className="relative flex flex-wrap items-center gap-x-6 gap-y-1 px-5 py-4 hover:bg-raised">
      <div className="min-w-0 flex-1 basis-60">
        <Link
          href={`/models/view?id=${model.id}`}
          dir="auto"
          className="font-medium break-words after:absolute after:inset-0"
        >
          {model.name}
        </Link>
        <p className="text-sm text-ink-soft">
          {facts?.architecture
            ? `${facts.architecture} · ${parameters(facts.parameterCount)} · ${bytes(facts.sizeBytes)}`
            : "not checked yet"}
        </p>
      </div>
      <StateChip model={model} />
      <span className="w-24 text-right text-sm text-ink-soft">
        {model.updateTime ? ago(timestampDate(model.updateTime)) : ""}
      </span>
    </li>
  );
}

function NewModel() {
  const router = useRouter();
  const dialog = useRef<HTMLDialogElement>(null);
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const create = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    void attempt(async () => {
      const wanted = { name: String(data.get("name")).trim() };
      const { model } = await models.createModel({ ...wanted, requestId: requestId.for(wanted) });
      requestId.done();
      if (model) router.push(`/models/view?id=${model.id}`);
    });
  };
  return (
    <>
      <Button look="primary" onClick={() => dialog.current?.showModal()}>
        <Plus aria-hidden className="size-4" />
        New model
      </Button>
      <Dialog ref={dialog} title="New model">
        <form onSubmit={create} className="space-y-4">
          <Field
            label="Name"
            name="name"
            required
            maxLength={100}
            problem={problem?.fields.name}
            hint="Its files come next."
          />
          {problem && Object.keys(problem.fields).length === 0 && <Problem>{problem.message}</Problem>}
          <div className="flex justify-end gap-2">
            <Button look="quiet" onClick={() => dialog.current?.close()}>
              Cancel
            </Button>
            <Button look="primary" type="submit" isBusy={isBusy}>
              Create
            </Button>
          </div>
        </form>
      </Dialog>
    </>
  );
}
