// Remembers in the browser which files were on their way, so that a reload loses nothing that has been done.
import { createStore, delMany, entries, get, set, type UseStore } from "idb-keyval";
import type { Remembered } from "./types";

export class Ledger {
  #store: UseStore;

  constructor(store: UseStore = createStore("reeltune", "uploads")) {
    this.#store = store;
  }

  async remember(entry: Remembered): Promise<void> {
    await set(key(entry.parentId, entry.path), entry, this.#store);
  }

  async find(parentId: string, path: string): Promise<Remembered | undefined> {
    return get<Remembered>(key(parentId, path), this.#store);
  }

  /** Returns what has not arrived in a dataset or model, by path. */
  async pending(parentId: string): Promise<Remembered[]> {
    const all = await entries<string, Remembered>(this.#store);
    const own = all.filter(([name]) => name.startsWith(`${parentId}/`)).map(([, entry]) => entry);
    return own.sort((a, b) => a.path.localeCompare(b.path));
  }

  async forget(parentId: string, paths: Iterable<string>): Promise<void> {
    await delMany(
      [...paths].map((path) => key(parentId, path)),
      this.#store,
    );
  }
}

/** Whether a chosen file is, as far as can be told without reading it, the one that is remembered. */
export function isSame(file: File, entry: Remembered): boolean {
  return file.size === entry.sizeBytes && file.lastModified === entry.lastModified;
}

function key(parentId: string, path: string): string {
  return `${parentId}/${path}`;
}
