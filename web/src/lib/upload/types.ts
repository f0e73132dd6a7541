// Words of an upload.

/** A file that somebody chose, and its path in the dataset or model. */
export interface Chosen {
  file: File;
  path: string;
  /** Lets the page read the file again after a reload; only browsers that can give one do. */
  handle?: FileSystemFileHandle;
}

export type Stage = "waiting" | "hashing" | "sending" | "verifying" | "done" | "failed";

/** One file as the page shows it. */
export interface Transfer {
  path: string;
  sizeBytes: number;
  stage: Stage;
  /** Bytes that have arrived, those of earlier visits included. */
  arrivedBytes: number;
  /** Bytes read so far to tell the file by its content. */
  hashedBytes: number;
  /** Bytes that this visit has put on the wire, retries included. */
  sentBytes: number;
  /** The bytes were stored already, so that none was sent. */
  isKnown: boolean;
  /** The connection is lost, and tried again by itself. */
  isWaiting: boolean;
  problem: string;
}

/** What is remembered over a reload about a file that has not arrived. */
export interface Remembered {
  parentId: string;
  path: string;
  sizeBytes: number;
  lastModified: number;
  /** Empty until the file was read once. */
  sha256: string;
  handle?: FileSystemFileHandle;
}
