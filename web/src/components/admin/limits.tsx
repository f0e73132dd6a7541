"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useRef, useState } from "react";
import type { Quota } from "@/gen/reeltune/scheduler/v1/quota_pb";
import {
  changeOf,
  DEFAULT,
  type LimitTexts,
  MOST_COUNT,
  MOST_GB,
  MOST_HOURS,
  quotas,
  textsOf,
  usage,
  users,
} from "@/lib/admin";
import { useAttempt } from "@/lib/attempt";
import type { Problem as Refusal } from "@/lib/errors";
import { ago, bytes, count } from "@/lib/format";
import { mistakeIn, untoldOf } from "@/lib/jobs/fields";
import { useRequestId } from "@/lib/request_id";
import { Dialog } from "../dialog";
import { Untold } from "../jobs/form";
import { NumberField } from "../number_field";
import { PagedList } from "../paged_list";
import { Button, Panel } from "../ui";
import { Unread } from "../unread";
import { ConfirmButton } from "./confirm";

const KEY = "admin-quotas";

/** The limits of everybody, and of those who have their own. */
export function Limits() {
  const list = useInfiniteQuery({
    queryKey: [KEY, "all"],
    queryFn: ({ pageParam, signal }) => quotas.listQuotas({ pageSize: 200, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
  });
  const found = (list.data?.pages ?? []).flatMap((page) => page.quotas).filter((one) => one.userId !== DEFAULT);
  return (
    <div className="space-y-6">
      <h2 className="sr-only">Limits</h2>
      <Panel title="Of everybody who has none of their own">
        <QuotaEditor userId={DEFAULT} name="everybody" />
      </Panel>
      <section>
        <h3 className="mb-3 font-semibold">Of single users</h3>
        <PagedList
          list={list}
          what="limits"
          items={found.map((quota) => ({ id: quota.userId, quota }))}
          empty={<p className="text-sm text-ink-soft">Nobody has limits of their own. They are set among the users.</p>}
          row={Row}
        />
      </section>
    </div>
  );
}

function Row({ item: { id, quota } }: { item: { id: string; quota: Quota } }) {
  const name = useNames().get(id) ?? id;
  return (
    <li className="flex flex-wrap items-center gap-x-6 gap-y-2 px-5 py-3">
      <div className="min-w-0 flex-1 basis-56">
        <p className="font-medium break-all">{name}</p>
        <p className="text-sm text-ink-soft">{told(quota)}</p>
      </div>
      <LimitsOf userId={quota.userId} name={name} />
    </li>
  );
}

function told({ runningJobs, queuedJobs, deviceHoursPerDay, storageBytes }: Quota): string {
  const limits = [
    runningJobs === undefined ? "" : `${count(runningJobs, "job")} at once`,
    queuedJobs === undefined ? "" : `${count(queuedJobs, "job")} waiting`,
    deviceHoursPerDay === undefined ? "" : `${deviceHoursPerDay} device hours a day`,
    storageBytes === undefined ? "" : bytes(storageBytes),
  ].filter(Boolean);
  return limits.join(" · ") || "no limits";
}

/** A button that opens a user's limits and what counts against them. */
export function LimitsOf({ userId, name }: { userId: string; name: string }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [isOpen, setOpen] = useState(false);
  const open = () => {
    setOpen(true);
    dialog.current?.showModal();
  };
  return (
    <>
      <Button aria-label={`Limits: ${name}`} aria-haspopup="dialog" onClick={open}>
        Limits
      </Button>
      <Dialog ref={dialog} title={`Limits of ${name}`} onClose={() => setOpen(false)}>
        {isOpen && <QuotaEditor userId={userId} name={name} onDone={() => dialog.current?.close()} />}
      </Dialog>
    </>
  );
}

function QuotaEditor({ userId, name, onDone }: { userId: string; name: string; onDone?: () => void }) {
  const found = useQuery({
    queryKey: [KEY, userId],
    queryFn: async ({ signal }) => (await quotas.getQuota({ userId }, { signal })).quota,
  });
  const { data: quota } = found;
  if (!quota) return <Unread of={found} what="Loading the limits …" />;
  // What another admin has changed meanwhile begins anew.
  return <QuotaForm key={`${quota.userId} ${quota.etag}`} quota={quota} userId={userId} name={name} onDone={onDone} />;
}

interface FormProps {
  quota: Quota;
  userId: string;
  name: string;
  onDone: (() => void) | undefined;
}

function QuotaForm({ quota, userId, name, onDone }: FormProps) {
  const client = useQueryClient();
  const [texts, setTexts] = useState(() => textsOf(quota));
  const { isBusy, problem, attempt } = useAttempt();
  const requestId = useRequestId();
  const isOwn = userId !== DEFAULT && !quota.isDefault;
  // Limits that are everybody's become a user's own by the first change.
  const { quota: changed, paths } = changeOf(
    { ...quota, userId, etag: isOwn || userId === DEFAULT ? quota.etag : "" },
    texts,
  );
  const again = () => client.invalidateQueries({ queryKey: [KEY] });
  const save = (event: FormEvent) => {
    event.preventDefault();
    void attempt(async () => {
      const id = requestId.for([userId, quota.etag, texts]);
      await quotas.updateQuota({ quota: changed, updateMask: { paths }, requestId: id });
      requestId.done();
      void again();
      onDone?.();
    });
  };
  const remove = async () => {
    const id = requestId.for(["delete", userId, quota.etag]);
    await quotas.deleteQuota({ userId, etag: quota.etag, requestId: id });
    requestId.done();
    void again();
    onDone?.();
  };
  return (
    <form onSubmit={save} noValidate className="space-y-4">
      {userId !== DEFAULT && <Used quota={quota} userId={userId} />}
      <p className="text-sm text-ink-soft">
        {userId !== DEFAULT && !isOwn ? "These are everybody's. " : ""}
        Empty: no limit. What is there stays when a limit is lowered, and nothing is added until there is room.
        {quota.updateTime && ` Changed ${ago(timestampDate(quota.updateTime))}.`}
      </p>
      <LimitFields texts={texts} onChange={setTexts} problem={problem} />
      <Untold title="The limits were not changed" texts={problem ? untoldOf(problem, KNOWN) : []} />
      <div className="flex flex-wrap justify-end gap-2">
        {onDone && (
          <Button look="quiet" onClick={onDone}>
            Leave it as it is
          </Button>
        )}
        {isOwn && (
          <ConfirmButton
            label="Take own limits away"
            of={name}
            title={`Take the own limits of ${name} away?`}
            verb="Take them away"
            look="danger"
            work={remove}
          >
            Those of everybody hold then. What was set here is not kept.
          </ConfirmButton>
        )}
        <Button
          type="submit"
          look="primary"
          isBusy={isBusy}
          disabled={paths.length === 0 || LIMITS.some((one) => mistakeOf(one, texts))}
        >
          Save
        </Button>
      </div>
    </form>
  );
}

interface Limit {
  name: keyof LimitTexts;
  label: string;
  hint: string;
  most: number;
  isInteger: boolean;
}

const LIMITS: readonly Limit[] = [
  { name: "running_jobs", label: "Jobs at once", hint: "More wait.", most: MOST_COUNT, isInteger: true },
  { name: "queued_jobs", label: "Jobs that wait", hint: "More are refused.", most: MOST_COUNT, isInteger: true },
  {
    name: "device_hours_per_day",
    label: "Device hours a day",
    hint: "Of the last 24 hours, each device counted.",
    most: MOST_HOURS,
    isInteger: false,
  },
  {
    name: "storage_bytes",
    label: "Storage, in GB",
    hint: "Datasets, models, artifacts and checkpoints.",
    most: MOST_GB,
    isInteger: false,
  },
];
const KNOWN = LIMITS.map((one) => `quota.${one.name}`);

function mistakeOf({ name, most, isInteger }: Limit, texts: LimitTexts): string | undefined {
  return mistakeIn(texts[name], 0, most, isInteger);
}

function LimitFields({
  texts,
  onChange,
  problem,
}: {
  texts: LimitTexts;
  onChange: (texts: LimitTexts) => void;
  problem: Refusal | undefined;
}) {
  return (
    <div className="grid gap-4 sm:grid-cols-2">
      {LIMITS.map(({ name, ...rest }) => (
        <NumberField
          key={name}
          {...rest}
          byDefault="no limit"
          least={0}
          value={texts[name]}
          onChange={(text) => onChange({ ...texts, [name]: text })}
          problem={problem?.fields[`quota.${name}`]}
        />
      ))}
    </div>
  );
}

function Used({ quota, userId }: { quota: Quota; userId: string }) {
  const stored = useQuery({
    queryKey: ["admin-usage", userId],
    queryFn: async ({ signal }) => (await usage.getUsage({ userId }, { signal })).usage,
    retry: false,
  });
  const { usage: used } = quota;
  if (!used) return null;
  const facts = [
    `${count(used.runningJobs, "job")} at once`,
    `${count(used.queuedJobs, "job")} waiting`,
    `${used.deviceHours.toFixed(1)} device hours in a day`,
    `${bytes(used.storageBytes)} of artifacts and checkpoints`,
    stored.data ? `${bytes(stored.data.storedBytes)} of datasets and models` : "",
  ];
  return <p className="text-sm">{`Has now: ${facts.filter(Boolean).join(" · ")}.`}</p>;
}

/** The names of users by their ids, as far as one page of them goes. */
export function useNames(): ReadonlyMap<string, string> {
  const list = useQuery({
    queryKey: ["admin-names"],
    queryFn: async ({ signal }) => (await users.listUsers({ pageSize: 1000 }, { signal })).users,
    staleTime: 60_000,
  });
  return new Map(list.data?.map((user) => [user.id, user.username]));
}
