"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { DeviceClass, type Worker, WorkerState } from "@/gen/reeltune/scheduler/v1/worker_pb";
import { workers } from "@/lib/admin";
import { ago, bytes, count, word } from "@/lib/format";
import { useRequestId } from "@/lib/request_id";
import { PagedList } from "../paged_list";
import { Chip, Empty, type Tone } from "../ui";
import { ConfirmButton } from "./confirm";

const KEY = ["admin-workers"];
const REFRESH_MS = 5_000;

const STATES: Record<WorkerState, { tone: Tone; name: string }> = {
  [WorkerState.UNSPECIFIED]: { tone: "plain", name: "unknown" },
  [WorkerState.IDLE]: { tone: "good", name: "free" },
  [WorkerState.BUSY]: { tone: "accent", name: "training" },
  [WorkerState.LOST]: { tone: "bad", name: "silent" },
  [WorkerState.DRAINING]: { tone: "warn", name: "giving its job back" },
  [WorkerState.DRAINED]: { tone: "plain", name: "out of service" },
};

/** The trainers that there are, and taking them out of service. */
export function Trainers() {
  const list = useInfiniteQuery({
    queryKey: KEY,
    queryFn: ({ pageParam, signal }) => workers.listWorkers({ pageSize: 200, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    refetchInterval: REFRESH_MS,
  });
  return (
    <>
      <h2 className="sr-only">Trainers</h2>
      <PagedList
        list={list}
        what="trainers"
        items={list.data?.pages.flatMap((page) => page.workers) ?? []}
        empty={<Empty title="No trainer has ever been there">Jobs wait until one is started.</Empty>}
        row={Row}
      />
    </>
  );
}

function Row({ item: worker }: { item: Worker }) {
  const { device, state, jobIds, heartbeatTime } = worker;
  const { tone, name } = STATES[state];
  const facts = [
    device && `${word(DeviceClass[device.deviceClass], "")}${device.deviceCount > 1 ? ` × ${device.deviceCount}` : ""}`,
    device?.name,
    device && device.memoryBytes > 0 ? bytes(device.memoryBytes) : "",
    worker.version && `version ${worker.version}`,
    heartbeatTime && `heard of ${ago(timestampDate(heartbeatTime))}`,
  ];
  return (
    <li className="flex flex-wrap items-center gap-x-6 gap-y-2 px-5 py-3">
      <div className="min-w-0 flex-1 basis-56">
        <p className="flex flex-wrap items-center gap-2 font-medium break-all">
          {worker.name}
          <Chip tone={tone} isLive={state === WorkerState.BUSY}>
            {name}
          </Chip>
        </p>
        <p className="text-sm break-words text-ink-soft">{facts.filter(Boolean).join(" · ")}</p>
        {jobIds.length > 0 && (
          <p className="text-sm break-all text-ink-soft">{`${count(jobIds.length, "job")}: ${jobIds.join(", ")}`}</p>
        )}
        {device && !device.canTrain4bit && (
          <p className="text-sm break-words text-warn">{`Cannot train in 4 bits: ${device.fourBitProblem}`}</p>
        )}
      </div>
      <ServiceButton worker={worker} />
    </li>
  );
}

function ServiceButton({ worker }: { worker: Worker }) {
  const client = useQueryClient();
  const requestId = useRequestId();
  const change = async (verb: "drainWorker" | "resumeWorker") => {
    await workers[verb]({ workerId: worker.id, requestId: requestId.for(verb) });
    requestId.done();
    void client.invalidateQueries({ queryKey: KEY });
  };
  if (worker.drainTime)
    return (
      <ConfirmButton
        label="Put into service"
        of={worker.name}
        title={`Put ${worker.name} back into service?`}
        verb="Put into service"
        work={() => change("resumeWorker")}
      >
        It takes jobs again at once.
      </ConfirmButton>
    );
  return (
    <ConfirmButton
      label="Take out of service"
      of={worker.name}
      title={`Take ${worker.name} out of service?`}
      verb="Take out of service"
      look="danger"
      work={() => change("drainWorker")}
    >
      It gets no more jobs, also after a restart, until it is put back. The one that it has goes back into the queue at
      its next step, with a checkpoint, and goes on from there on another trainer.
    </ConfirmButton>
  );
}
