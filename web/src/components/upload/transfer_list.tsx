import { Check, CircleAlert } from "lucide-react";
import { bytes, count } from "@/lib/format";
import type { Totals } from "@/lib/upload/queue";
import type { Transfer } from "@/lib/upload/types";
import { Bar, Button } from "../ui";

/** As many rows as a page can bear to redraw; the others are told by the bar for all. */
const SHOWN = 100;

interface Props {
  transfers: readonly Transfer[];
  totals: Totals;
  onRetry: () => void;
  onClear: () => void;
}

export function TransferList({ transfers, totals, onRetry, onClear }: Props) {
  if (transfers.length === 0) return null;
  // What moves or failed comes first; of what is done, the latest.
  const order = { failed: 0, sending: 1, verifying: 1, hashing: 1, waiting: 2, done: 3 };
  const shown =
    transfers.length > SHOWN
      ? [...transfers].sort((a, b) => order[a.stage] - order[b.stage]).slice(0, SHOWN)
      : transfers;
  return (
    <div className="mt-5">
      <div className="mb-2 flex flex-wrap items-baseline justify-between gap-2 text-sm">
        <p className="font-medium" data-testid="upload-summary">
          {summary(totals)}
        </p>
        {/* Bytes change many times a second; what is read out are files. */}
        <p role="status" className="sr-only">
          {outcome(totals)}
        </p>
        <span className="flex gap-2">
          {totals.failed > 0 && <Button onClick={onRetry}>Try again</Button>}
          {!totals.isBusy && (
            <Button look="quiet" onClick={onClear}>
              Clear the list
            </Button>
          )}
        </span>
      </div>
      <Bar
        label="All files"
        value={totals.arrivedBytes}
        max={totals.sizeBytes}
        tone={totals.failed ? "bad" : totals.isBusy ? "accent" : "good"}
      />
      <ul className="mt-4 space-y-3">
        {shown.map((one) => (
          <Row key={one.path} transfer={one} />
        ))}
      </ul>
      {transfers.length > shown.length && (
        <p className="mt-3 text-sm text-ink-soft">and {count(transfers.length - shown.length, "more file")}</p>
      )}
    </div>
  );
}

function outcome(totals: Totals): string {
  const failed = totals.failed > 0 ? `, ${totals.failed.toLocaleString("en")} failed` : "";
  return `${totals.done.toLocaleString("en")} of ${count(totals.files, "file")} done${failed}`;
}

export function summary(totals: Totals): string {
  const parts = [`${totals.done.toLocaleString("en")} of ${count(totals.files, "file")} arrived`];
  if (totals.isBusy) parts.push(`${bytes(totals.arrivedBytes)} of ${bytes(totals.sizeBytes)}`);
  if (totals.known > 0) parts.push(`${count(totals.known, "file")} known already, nothing sent`);
  if (totals.failed > 0) parts.push(`${totals.failed.toLocaleString("en")} failed`);
  return parts.join(" · ");
}

function Row({ transfer }: { transfer: Transfer }) {
  const { path, stage, sizeBytes, arrivedBytes, hashedBytes } = transfer;
  const isHashing = stage === "hashing";
  return (
    <li
      className="grid grid-cols-[1fr_auto] gap-x-4 gap-y-1 text-sm"
      data-path={path}
      data-stage={stage}
      data-sent={transfer.sentBytes}
    >
      <span className="min-w-0 truncate font-mono text-[0.8125rem]" title={path}>
        {path}
      </span>
      <Status transfer={transfer} />
      {(isHashing || stage === "sending" || stage === "verifying") && (
        <div className="col-span-2">
          <Bar label={path} value={isHashing ? hashedBytes : arrivedBytes} max={sizeBytes} />
        </div>
      )}
      {stage === "failed" && <p className="col-span-2 text-bad">{transfer.problem}</p>}
    </li>
  );
}

function Status({ transfer }: { transfer: Transfer }) {
  const { stage, sizeBytes, arrivedBytes, isKnown } = transfer;
  if (stage === "done") {
    return (
      <span className="flex items-center gap-1.5 text-good">
        <Check aria-hidden className="size-4" />
        {isKnown ? "stored already" : bytes(sizeBytes)}
      </span>
    );
  }
  if (stage === "failed") {
    return (
      <span className="flex items-center gap-1.5 text-bad">
        <CircleAlert aria-hidden className="size-4" />
        failed
      </span>
    );
  }
  const words = {
    waiting: "waiting",
    hashing: "reading",
    verifying: "verifying",
    sending: `${bytes(arrivedBytes)} of ${bytes(sizeBytes)}`,
  };
  if (transfer.isWaiting) return <span className="text-warn">waiting for the connection</span>;
  return <span className="text-ink-soft tabular-nums">{words[stage]}</span>;
}
