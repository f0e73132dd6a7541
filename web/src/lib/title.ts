"use client";

import { useEffect } from "react";

/** Names the tab after what it shows. */
export function useTitle(name: string | undefined): void {
  useEffect(() => {
    if (name) document.title = `${name} · Reeltune`;
  }, [name]);
}
