// Reads files and tells their SHA-256, off the page's thread and in pieces: memory stays flat whatever the file's size.
import { createSHA256 } from "hash-wasm";

export type Asked = { id: number; file: Blob };
export type Told = { id: number; hashed: number } | { id: number; sha256: string } | { id: number; problem: string };

const PIECE_BYTES = 4 * 1024 * 1024;
const hasher = createSHA256();
const tell = (message: Told) => self.postMessage(message);
// One file after the other: the reader of files is the bottleneck, and the hasher has one state.
let last = Promise.resolve();

self.onmessage = (event: MessageEvent<Asked>) => {
  last = last.then(() => read(event.data));
};

async function read({ id, file }: Asked): Promise<void> {
  try {
    const sha256 = (await hasher).init();
    for (let offset = 0; offset < file.size; offset += PIECE_BYTES) {
      sha256.update(new Uint8Array(await file.slice(offset, offset + PIECE_BYTES).arrayBuffer()));
      tell({ id, hashed: Math.min(offset + PIECE_BYTES, file.size) });
    }
    tell({ id, sha256: sha256.digest("hex") });
  } catch (error) {
    tell({ id, problem: error instanceof Error ? error.message : String(error) });
  }
}
