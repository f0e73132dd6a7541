"use client";

import { useSearchParams } from "next/navigation";
import type { ReactNode } from "react";
import { cx, Panel } from "./ui";

export interface Tab {
  name: string;
  content: () => ReactNode;
}

/** Views of one thing. The address holds the chosen one, and arrow keys move between them, as everywhere else. */
export function Tabs({ label, tabs }: { label: string; tabs: Tab[] }) {
  const asked = useSearchParams().get("tab");
  const chosen = tabs.find((tab) => slug(tab.name) === asked) ?? tabs[0]!;
  const at = tabs.indexOf(chosen);
  const choose = (tab: Tab) => {
    const query = new URLSearchParams(location.search);
    query.set("tab", slug(tab.name));
    history.replaceState(null, "", `${location.pathname}?${query}`);
  };
  const move = (by: number) => {
    const next = tabs[(at + by + tabs.length) % tabs.length]!;
    choose(next);
    document.getElementById(`tab-${slug(next.name)}`)?.focus();
  };
  const keys: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: tabs.length - 1 - at };
  return (
    <Panel>
      <div
        role="tablist"
        aria-label={label}
        className="-mx-2 mb-5 flex flex-wrap gap-1 border-b border-line pb-2"
        onKeyDown={(event) => {
          if (!(event.key in keys)) return;
          event.preventDefault();
          move(keys[event.key]!);
        }}
      >
        {tabs.map((tab) => (
          <button
            key={tab.name}
            id={`tab-${slug(tab.name)}`}
            type="button"
            role="tab"
            aria-selected={tab === chosen}
            aria-controls="tab-panel"
            tabIndex={tab === chosen ? 0 : -1}
            onClick={() => choose(tab)}
            className={cx(
              "rounded-lg px-3 py-1.5 text-sm font-medium",
              tab === chosen ? "bg-accent-soft text-accent" : "text-ink-soft hover:bg-raised hover:text-ink",
            )}
          >
            {tab.name}
          </button>
        ))}
      </div>
      <div id="tab-panel" role="tabpanel" aria-labelledby={`tab-${slug(chosen.name)}`}>
        {chosen.content()}
      </div>
    </Panel>
  );
}

function slug(name: string): string {
  return name.toLowerCase().replaceAll(" ", "-");
}
