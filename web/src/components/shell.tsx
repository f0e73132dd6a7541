"use client";

import { useQueryClient } from "@tanstack/react-query";
import { Activity, Box, Film, LogOut, Moon, Settings2, Sun } from "lucide-react";
import Link from "next/link";
import { usePathname, useRouter } from "next/navigation";
import { type ReactNode, useEffect, useState, useSyncExternalStore } from "react";
import { Role, type User } from "@/gen/reeltune/auth/v1/user_pb";
import { session } from "@/lib/clients";
import { explain, isPassing } from "@/lib/errors";
import { Reachability } from "@/lib/reachable";
import type { SessionState } from "@/lib/session";
import { rest } from "@/lib/watch";
import { chooseTheme, currentTheme, type Theme } from "@/lib/theme";
import { Brand } from "./brand";
import { Button, cx, Loading, Problem } from "./ui";

const PLACES = [
  { href: "/datasets", name: "Datasets", Icon: Film },
  { href: "/models", name: "Models", Icon: Box },
  { href: "/jobs", name: "Jobs", Icon: Activity },
];
const ADMIN = { href: "/admin", name: "Admin", Icon: Settings2 };
const AGAIN_MS = 5_000;
const UNKNOWN: SessionState = { kind: "unknown" };

export function useSession(): SessionState {
  return useSyncExternalStore(session.subscribe, session.snapshot, () => UNKNOWN);
}

/** The frame of every page that needs somebody signed in. */
export function Shell({ children }: { children: ReactNode }) {
  const state = useSession();
  const router = useRouter();
  const [problem, setProblem] = useState("");

  useEffect(() => {
    const stop = new AbortController();
    void resume(stop.signal, setProblem);
    return () => stop.abort();
  }, []);
  useEffect(() => {
    if (state.kind !== "out") return;
    const here = location.pathname.replace(/^\/app/, "") + location.search;
    router.replace(`/login?next=${encodeURIComponent(here)}`);
  }, [state.kind, router]);

  if (state.kind !== "in") {
    return (
      <main className="mx-auto max-w-xl p-8">
        <h1 className="sr-only">Reeltune</h1>
        {problem ? (
          <Problem action={<Button onClick={() => location.reload()}>Try again</Button>}>{problem}</Problem>
        ) : (
          <Loading what={state.kind === "left" ? "Leaving …" : "Looking for your session …"} />
        )}
      </main>
    );
  }
  return (
    <div className="mx-auto grid min-h-dvh max-w-7xl grid-rows-[auto_1fr] md:grid-cols-[14.5rem_1fr] md:grid-rows-1">
      <a
        href="#main"
        className="sr-only focus:not-sr-only focus:absolute focus:z-10 focus:m-2 focus:rounded focus:bg-panel focus:p-2"
      >
        Skip to the content
      </a>
      <Sidebar user={state.user} />
      <main id="main" className="min-w-0 px-5 py-6 md:px-8 md:py-8">
        <LostNotice />
        {children}
      </main>
    </div>
  );
}

/** Finds the session again, however long the service is away. */
async function resume(signal: AbortSignal, tell: (problem: string) => void): Promise<void> {
  while (!signal.aborted) {
    try {
      await session.resume();
      return tell("");
    } catch (error) {
      tell(explain(error).message);
      if (!isPassing(error)) return;
    }
    await rest(AGAIN_MS, signal);
  }
}

/** Says that what is shown may be old, for as long as no service answers. */
function LostNotice() {
  const cache = useQueryClient().getQueryCache();
  const [reachability] = useState(() => new Reachability(cache));
  const isLost = useSyncExternalStore(reachability.subscribe, reachability.isLost, () => false);
  return (
    <div role="status" className="sticky top-2 z-20 empty:hidden">
      {isLost && (
        <p className="mb-4 rounded-lg border border-warn bg-warn-soft px-4 py-2 text-sm text-warn shadow-lg">
          The service cannot be reached. What is shown may be old; this page goes on by itself as soon as it is there
          again.
        </p>
      )}
    </div>
  );
}

function Sidebar({ user }: { user: User }) {
  const { username } = user;
  const path = usePathname();
  const [problem, setProblem] = useState("");
  const leave = () => session.logOut().catch((error: unknown) => setProblem(explain(error).message));
  return (
    <header className="flex flex-wrap items-center gap-x-4 gap-y-2 border-line px-5 py-3 max-md:border-b md:sticky md:top-0 md:h-dvh md:flex-col md:flex-nowrap md:items-stretch md:border-r md:px-4 md:py-8">
      <Link href="/datasets" className="rounded px-2 md:mb-4">
        <Brand />
      </Link>
      <nav aria-label="Main" className="flex flex-wrap gap-1 md:flex-col">
        {(user.roles.includes(Role.ADMIN) ? [...PLACES, ADMIN] : PLACES).map(({ href, name, Icon }) => {
          const isHere = path.startsWith(href);
          return (
            <Link
              key={href}
              href={href}
              aria-current={isHere ? "page" : undefined}
              className={cx(
                "flex items-center gap-2.5 rounded-lg px-3 py-2 text-sm font-medium",
                isHere ? "bg-accent-soft text-accent" : "text-ink-soft hover:bg-raised hover:text-ink",
              )}
            >
              <Icon aria-hidden className="size-4" />
              {name}
            </Link>
          );
        })}
      </nav>
      <div className="ml-auto flex items-center gap-1 md:mt-auto md:ml-0 md:justify-between">
        <span className="max-w-32 min-w-0 flex-1 truncate px-2 text-sm text-ink-soft" title={username}>
          {username}
        </span>
        <span className="flex shrink-0">
          <ThemeButton />
          <Button look="quiet" className="px-2" aria-label="Log out" title="Log out" onClick={() => void leave()}>
            <LogOut aria-hidden className="size-4" />
          </Button>
        </span>
      </div>
      {problem && <Problem>{problem}</Problem>}
    </header>
  );
}

export function ThemeButton() {
  const [theme, setTheme] = useState<Theme>();
  useEffect(() => setTheme(currentTheme()), []);
  const other: Theme = theme === "dark" ? "light" : "dark";
  const Icon = theme === "dark" ? Sun : Moon;
  const name = `Use the ${other} theme`;
  return (
    <Button
      look="quiet"
      className="px-2"
      aria-label={name}
      title={name}
      onClick={() => (chooseTheme(other), setTheme(other))}
    >
      <Icon aria-hidden className="size-4" />
    </Button>
  );
}
