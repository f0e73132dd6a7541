// From what was dropped or chosen to files with paths: those of a folder keep their places in it.
import type { Chosen, Remembered } from "./types";

/** Reads a drop; folders are walked. Must be called within the event: the browser takes the items back after it. */
export async function fromDrop(transfer: DataTransfer): Promise<Chosen[]> {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const opened = items.map((item) => ({
    entry: item.webkitGetAsEntry(),
    file: item.getAsFile(),
    handle: handleOf(item),
  }));
  const found: Chosen[] = [];
  for (const { entry, file, handle } of opened) {
    if (entry?.isDirectory)
      found.push(...(await walk(entry as FileSystemDirectoryEntry, opened.length === 1 ? "" : `${entry.name}/`)));
    else if (file) found.push({ file, path: file.name, ...(await fileHandle(handle)) });
  }
  return found.filter(isVisible);
}

/** Reads a file input; for a chosen folder, paths begin below it. */
export function fromInput(files: Iterable<File>): Chosen[] {
  const all = [...files].map((file) => ({
    file,
    path: file.webkitRelativePath.split("/").slice(1).join("/") || file.name,
  }));
  return all.filter(isVisible);
}

/** Opens files of an earlier visit again, as far as the browser remembers them and the user lets it. */
export async function fromHandles(entries: readonly Remembered[]): Promise<Chosen[]> {
  const found: Chosen[] = [];
  for (const { handle, path } of entries) {
    if (!handle || !(await mayRead(handle))) continue;
    try {
      found.push({ file: await handle.getFile(), path, handle });
    } catch (error) {
      if (!(error instanceof DOMException)) throw error; // moved or deleted meanwhile: it has to be chosen again
    }
  }
  return found;
}

type WithPermission = FileSystemFileHandle & {
  requestPermission?: (options: { mode: "read" }) => Promise<PermissionState>;
};
type WithHandle = DataTransferItem & { getAsFileSystemHandle?: () => Promise<FileSystemHandle | null> };

async function mayRead(handle: WithPermission): Promise<boolean> {
  return !handle.requestPermission || (await handle.requestPermission({ mode: "read" })) === "granted";
}

function handleOf(item: WithHandle): Promise<FileSystemHandle | null> | undefined {
  // A file that a program made has none, and says so by an error.
  return item.getAsFileSystemHandle?.().catch(() => null);
}

async function fileHandle(
  handle: Promise<FileSystemHandle | null> | undefined,
): Promise<{ handle?: FileSystemFileHandle }> {
  const found = await handle;
  return found?.kind === "file" ? { handle: found as FileSystemFileHandle } : {};
}

async function walk(folder: FileSystemDirectoryEntry, prefix: string): Promise<Chosen[]> {
  const found: Chosen[] = [];
  const reader = folder.createReader();
  for (;;) {
    // A browser gives a hundred at a time, and none at the end.
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return found;
    for (const entry of entries) {
      const path = `${prefix}${entry.name}`;
      if (entry.isDirectory) found.push(...(await walk(entry as FileSystemDirectoryEntry, `${path}/`)));
      else
        found.push({
          path,
          file: await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)),
        });
    }
  }
}

/** Hidden files, such as those that file managers leave behind, are nobody's clips. */
function isVisible({ path }: Chosen): boolean {
  return !path.split("/").some((part) => part.startsWith("."));
}
