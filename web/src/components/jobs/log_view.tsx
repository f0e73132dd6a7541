"use client";

import { useEffect, useMemo, useRef, useState } from "react";
import { LogLevel } from "@/gen/reeltune/scheduler/v1/job_event_pb";
import type { Line } from "@/lib/jobs/story";
import { Button, cx, Empty, INPUT } from "../ui";

const COLOURS: Partial<Record<LogLevel, string>> = {
  [LogLevel.WARNING]: "text-warn",
  [LogLevel.ERROR]: "text-bad",
  [LogLevel.DEBUG]: "text-ink-soft",
};
const SHOWN = 2_000;

/** The job's log: follows its end until somebody scrolls up. */
export function LogView({ lines, version, name }: { lines: readonly Line[]; version: number; name: string }) {
  const [search, setSearch] = useState("");
  const [isFollowing, setFollowing] = useState(true);
  const box = useRef<HTMLDivElement>(null);
  const found = useMemo(() => {
    const wanted = search.toLowerCase();
    return (wanted ? lines.filter((line) => line.text.toLowerCase().includes(wanted)) : lines).slice(-SHOWN);
    // oxlint-disable-next-line react-hooks/exhaustive-deps -- the lines grow in place; the version says so
  }, [lines, version, search]);
  useEffect(() => {
    if (isFollowing && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [found, isFollowing]);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    setFollowing(scrollHeight - scrollTop - clientHeight < 24);
  };
  if (lines.length === 0) return <Empty title="Nothing has been logged yet" />;
  return (
    <div>
      <div className="mb-3 flex flex-wrap items-center gap-2">
        <label className="sr-only" htmlFor="log-search">
          Search the log
        </label>
        <input
          id="log-search"
          type="search"
          placeholder="Search"
          value={search}
          onChange={(event) => setSearch(event.target.value)}
          className={cx(INPUT, "max-w-60")}
        />
        <Button look="quiet" onClick={() => void navigator.clipboard.writeText(asText(found))}>
          Copy
        </Button>
        <Button look="quiet" onClick={() => save(`${name}.log`, asText(lines))}>
          Download
        </Button>
        {!isFollowing && <Button onClick={() => setFollowing(true)}>Follow the end</Button>}
      </div>
      <div
        ref={box}
        onScroll={scrolled}
        tabIndex={0}
        role="log"
        aria-label="Log"
        className="h-96 overflow-y-auto rounded-lg border border-line bg-ground p-3 font-mono text-xs leading-5"
      >
        {found.map((line) => (
          <p key={String(line.sequence)} className={cx("break-words whitespace-pre-wrap", COLOURS[line.level])}>
            <span className="mr-3 text-ink-soft select-none">{clock(line.timeMs)}</span>
            {line.text}
          </p>
        ))}
      </div>
    </div>
  );
}

function clock(timeMs: number): string {
  return new Date(timeMs).toLocaleTimeString("en-GB");
}

function asText(lines: readonly Line[]): string {
  return lines.map((line) => `${new Date(line.timeMs).toISOString()} ${line.text}\n`).join("");
}

function save(name: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  URL.revokeObjectURL(address);
}
