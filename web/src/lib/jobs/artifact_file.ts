// A file of what a job has made, read by the page itself.
import { training } from "@/lib/clients";
import { bytes } from "@/lib/format";

export interface FileText {
  text: string;
  /** Whether this is only the file's beginning. */
  isCut: boolean;
}

/** Reads a file, of a longer one the beginning; nothing where there is no such file. */
export async function readArtifactFile(
  jobId: string,
  path: string,
  mostBytes: number,
  signal: AbortSignal,
): Promise<FileText | undefined> {
  const { artifact } = await training.getArtifact({ jobId }, { signal });
  const file = artifact?.files.find((one) => one.path === path);
  if (!file) return undefined;
  const isCut = file.sizeBytes > mostBytes;
  const headers: HeadersInit = isCut ? { range: `bytes=0-${mostBytes - 1}` } : {};
  const answer = await fetch(file.url, { headers, signal });
  if (!answer.ok)
    throw new Error(
      `${path} (${bytes(file.sizeBytes)}) could not be read: the store answered ${answer.status}. Try again in a moment.`,
    );
  return { text: await answer.text(), isCut };
}
