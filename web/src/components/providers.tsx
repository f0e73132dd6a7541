"use client";

import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { isPassing } from "@/lib/errors";
import { untilRead } from "@/lib/reachable";

const TRIES = 4;

export function Providers({ children }: { children: ReactNode }) {
  const [client] = useState(
    () =>
      new QueryClient({
        defaultOptions: {
          queries: {
            staleTime: 5_000,
            retry: (failures, error) => failures < TRIES && isPassing(error),
            refetchInterval: untilRead,
            // The service may run on this very machine, which no browser needs to be online for.
            networkMode: "always",
            refetchOnReconnect: true,
          },
        },
      }),
  );
  return <QueryClientProvider client={client}>{children}</QueryClientProvider>;
}
