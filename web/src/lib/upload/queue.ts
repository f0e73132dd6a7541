// Sends chosen files into one dataset or model: a few at a time, by parts, resumable, and nothing that is stored already.
import { Code, ConnectError } from "@connectrpc/connect";
import type { Upload, UploadPart } from "@/gen/reeltune/catalog/v1/upload_pb";
import { explain, isPassing, isUnreachable } from "../errors";
import { rest } from "../watch";
import { SMALL_BYTES, type Uploads } from "./batch";
import type { Hash } from "./hash";
import { isSame, type Ledger } from "./ledger";
import { Offer } from "./offer";
import { PartRefused, type Put } from "./put";
import type { Chosen, Transfer } from "./types";

const FILES_AT_ONCE = 3;
/** Of small files: so many that calls for all of them go together. */
const SMALL_AT_ONCE = 48;
const PARTS_AT_ONCE = 3;
/** Of small files, which wait for answers more than for bytes: what a browser opens connections for. */
const SMALL_PARTS_AT_ONCE = 6;
const TRIES = 6;
const FIRST_PAUSE_MS = 500;
/** A lost connection is waited out, however long; so often is it tried. */
const LONGEST_PAUSE_MS = 30_000;
/** More files than that are shown four times a second only: each redraw looks at all of them. */
const MANY = 300;

export interface Totals {
  files: number;
  done: number;
  failed: number;
  known: number;
  sizeBytes: number;
  arrivedBytes: number;
  sentBytes: number;
  isBusy: boolean;
}

export interface Snapshot {
  transfers: readonly Transfer[];
  totals: Totals;
  /** What somebody should know about all of them; empty where there is nothing. */
  note: string;
}

interface Item extends Transfer {
  chosen: Chosen;
}

export interface Tools {
  uploads: Uploads;
  hash: Hash;
  put: Put;
  ledger: Ledger;
  /** Called when the page should show something new; at most once a frame. */
  schedule?: (redraw: () => void) => void;
}

export class UploadQueue {
  #items = new Map<string, Item>();
  #listeners = new Set<() => void>();
  #stop = new AbortController();
  #large = { running: 0, most: FILES_AT_ONCE, parts: new Gate(PARTS_AT_ONCE) };
  #small = { running: 0, most: SMALL_AT_ONCE, parts: new Gate(SMALL_PARTS_AT_ONCE) };
  #isScheduled = false;
  #note = "";
  #snapshot: Snapshot = { transfers: [], totals: NOTHING, note: "" };

  constructor(
    readonly parentId: string,
    private readonly tools: Tools,
  ) {}

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = () => this.#snapshot;

  /** Takes files; one that is on its way already is not taken twice, one that failed is tried again. */
  async add(files: readonly Chosen[]): Promise<void> {
    const taken: Item[] = [];
    for (const chosen of files) {
      const former = this.#items.get(chosen.path);
      if (former && !["done", "failed"].includes(former.stage)) continue;
      const item = waiting(chosen);
      this.#items.set(chosen.path, item);
      taken.push(item);
    }
    this.#changed();
    await Promise.all(taken.map((item) => this.#remember(item.chosen)));
    this.#startNext();
  }

  /** Tries again what failed. */
  retry(): void {
    void this.add([...this.#items.values()].filter((item) => item.stage === "failed").map((item) => item.chosen));
  }

  /** Takes what is done or failed off the list. */
  clear(): void {
    for (const [path, item] of this.#items) if (["done", "failed"].includes(item.stage)) this.#items.delete(path);
    this.#changed();
  }

  /** Stops everything; what has arrived stays, and the same files go on from there. */
  close(): void {
    this.#stop.abort();
  }

  #startNext(): void {
    for (const item of this.#items.values()) {
      const isFull = [this.#large, this.#small].every((lane) => lane.running >= lane.most);
      if (isFull || this.#stop.signal.aborted) return;
      const lane = this.#laneOf(item);
      if (item.stage !== "waiting" || lane.running >= lane.most) continue;
      lane.running += 1;
      this.#change(item, { stage: "hashing" });
      void this.#run(item).finally(() => {
        lane.running -= 1;
        this.#startNext();
        this.#changed();
      });
    }
  }

  #laneOf(item: Item) {
    return item.sizeBytes > SMALL_BYTES ? this.#large : this.#small;
  }

  async #run(item: Item): Promise<void> {
    try {
      await this.#sendAsRead(item);
      await this.#noting((ledger) => ledger.forget(this.parentId, [item.path]));
      this.#change(item, { stage: "done", arrivedBytes: item.sizeBytes });
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#change(item, { stage: "failed", problem: explain(error).message });
    }
  }

  /** Sends a file; one that is not what was read, now or before a reload, is read again once. */
  async #sendAsRead(item: Item): Promise<void> {
    try {
      await this.#send(item, await this.#digest(item));
    } catch (error) {
      if (!(error instanceof PartRefused && error.hasOtherBytes) || this.#stop.signal.aborted) throw error;
      await this.#noting((ledger) => ledger.forget(this.parentId, [item.path]));
      this.#change(item, { stage: "hashing", hashedBytes: 0, arrivedBytes: 0 });
      try {
        await this.#send(item, await this.#digest(item));
      } catch (again) {
        if (!(again instanceof PartRefused) || this.#stop.signal.aborted) throw again;
        // Nor is what was read just now to be believed when it is tried again.
        await this.#noting((ledger) => ledger.forget(this.parentId, [item.path]));
        throw changed(item, again);
      }
    }
  }

  /** Returns the file's SHA-256; a file that was read before a reload is not read again. */
  async #digest(item: Item): Promise<string> {
    const { file, path } = item.chosen;
    const former = await this.#noting((ledger) => ledger.find(this.parentId, path));
    if (former?.sha256 && isSame(file, former)) return former.sha256;
    const sha256 = await this.tools.hash(file, (hashedBytes) => this.#change(item, { hashedBytes }));
    await this.#remember(item.chosen, sha256);
    return sha256;
  }

  async #send(item: Item, sha256: string): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const offer = new Offer(() => this.#offer(item, sha256));
      const first = await offer.upload;
      if (first.complete) {
        this.#change(item, { isKnown: item.sentBytes === 0 && item.arrivedBytes === 0 });
        return;
      }
      await this.#sendParts(item, offer, first.parts);
      // The newest: an upload that ended meanwhile was opened anew with its addresses.
      const upload = await offer.upload;
      if (upload.complete) return;
      this.#change(item, { stage: "verifying" });
      try {
        await this.#persist(item, () => this.tools.uploads.completeUpload({ uploadId: upload.id }, this.#call()));
        return;
      } catch (error) {
        // The store lost a part, or the bytes are not those that were promised: what is missing is sent once more.
        const reason = explain(error).reason;
        if (attempt === 2 || !["UPLOAD_INCOMPLETE", "UPLOAD_NOT_FOUND"].includes(reason)) throw error;
      }
    }
  }

  async #offer(item: Item, sha256: string): Promise<Upload> {
    const file = { parentId: this.parentId, path: item.path, sizeBytes: BigInt(item.sizeBytes), sha256 };
    const { upload } = await this.#persist(item, () =>
      this.tools.uploads.createUpload({ file, acceptsHeaders: true }, this.#call()),
    );
    if (!upload) throw new Error("the service did not say where to send the file");
    return upload;
  }

  /** Sends what is missing; a part that fails for good stops the others of its file. */
  async #sendParts(item: Item, offer: Offer, parts: readonly UploadPart[]): Promise<void> {
    const arrived = new Map(parts.map((part) => [part.number, part.arrived ? Number(part.sizeBytes) : 0]));
    const told = () =>
      this.#change(item, { arrivedBytes: [...arrived.values()].reduce((sum, bytes) => sum + bytes, 0) });
    this.#change(item, { stage: "sending" });
    told();
    const missing = parts.filter((part) => !part.arrived);
    const onSent = (part: UploadPart) => (bytes: number) => {
      arrived.set(part.number, Math.min(bytes, Number(part.sizeBytes)));
      told();
    };
    const stop = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, stop.signal]);
    const failures: unknown[] = [];
    const send = async (part: UploadPart) => {
      try {
        await this.#laneOf(item).parts.pass(() => this.#sendPart(item, offer, part, onSent(part), signal));
      } catch (error) {
        failures.push(error);
        stop.abort();
      }
    };
    await Promise.all(missing.map(send));
    if (failures.length > 0) throw failures[0]; // the others were stopped by it
  }

  async #sendPart(
    item: Item,
    offer: Offer,
    part: UploadPart,
    onSent: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const start = Number(part.offsetBytes);
    const body = item.chosen.file.slice(start, start + Number(part.sizeBytes));
    const pauses = new Pauses();
    let refused = "";
    for (;;) {
      signal.throwIfAborted();
      // The address may have ended, and the part may have arrived although the answer was lost.
      const offered = await offer.part(part.number, refused);
      if (!offered) break;
      try {
        await this.tools.put(offered, body, this.#counted(item, onSent), signal);
        break;
      } catch (error) {
        onSent(0);
        if (!(error instanceof PartRefused) || error.hasOtherBytes) throw error;
        if (error.status === 0) await assertReadable(item, body);
        refused = offered.url;
        const pause = pauses.next(error.isPassing);
        if (pause === undefined) throw unsent(item, error);
        await this.#wait(item, error.isPassing, pause, signal);
      }
    }
    onSent(Number(part.sizeBytes));
  }

  async #wait(item: Item, isLost: boolean, pause: number, signal: AbortSignal): Promise<void> {
    this.#change(item, { isWaiting: isLost });
    await rest(pause, signal);
    this.#change(item, { isWaiting: false });
  }

  #counted(item: Item, onSent: (bytes: number) => void): (bytes: number) => void {
    let before = 0;
    return (bytes) => {
      item.sentBytes += bytes - before;
      before = bytes;
      onSent(bytes);
    };
  }

  /** Repeats a call while it fails for reasons that pass. */
  async #persist<Answer>(item: Item, call: () => Promise<Answer>): Promise<Answer> {
    const pauses = new Pauses();
    for (;;) {
      try {
        return await call();
      } catch (error) {
        if (!isPassing(error) || this.#stop.signal.aborted) throw error;
        const isLost = isUnreachable(error);
        const pause = pauses.next(isLost);
        if (pause === undefined) throw error;
        await this.#wait(item, isLost, explain(error).retryAfterMs ?? pause, this.#stop.signal);
      }
    }
  }

  #call() {
    if (this.#stop.signal.aborted) throw new ConnectError("stopped", Code.Canceled);
    return { signal: this.#stop.signal };
  }

  async #remember(chosen: Chosen, sha256 = ""): Promise<void> {
    const { file, path, handle } = chosen;
    const former = await this.#noting((ledger) => ledger.find(this.parentId, path));
    const known = sha256 || (former && isSame(file, former) ? former.sha256 : "");
    const { size: sizeBytes, lastModified } = file;
    const entry = { parentId: this.parentId, path, sizeBytes, lastModified, sha256: known };
    await this.#noting((ledger) => ledger.remember({ ...entry, ...(handle ? { handle } : {}) }));
  }

  /** Uses the ledger, which no upload depends on: a browser that keeps nothing is told of once. */
  async #noting<Result>(use: (ledger: Ledger) => Promise<Result>): Promise<Result | undefined> {
    try {
      return await use(this.tools.ledger);
    } catch (error) {
      this.#note = `This browser remembers nothing (${explain(error).message}). The upload goes on; after a reload, choose the same files again: they are read again, and only what is missing is sent.`;
      this.#changed();
      return undefined;
    }
  }

  #change(item: Item, change: Partial<Transfer>): void {
    Object.assign(item, change);
    this.#changed();
  }

  #changed(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const schedule = this.tools.schedule ?? (this.#items.size > MANY ? everyQuarter : everyFrame);
    schedule(() => {
      this.#isScheduled = false;
      const transfers = [...this.#items.values()].map((item): Transfer => ({ ...item }));
      this.#snapshot = { transfers, totals: totalsOf(transfers), note: this.#note };
      for (const listener of this.#listeners) listener();
    });
  }
}

const everyFrame = (redraw: () => void) => void requestAnimationFrame(redraw);
const everyQuarter = (redraw: () => void) => void setTimeout(redraw, 250);

const NOTHING: Totals = {
  files: 0,
  done: 0,
  failed: 0,
  known: 0,
  sizeBytes: 0,
  arrivedBytes: 0,
  sentBytes: 0,
  isBusy: false,
};

export function totalsOf(transfers: readonly Transfer[]): Totals {
  const totals = { ...NOTHING, files: transfers.length };
  for (const one of transfers) {
    totals.sizeBytes += one.sizeBytes;
    totals.arrivedBytes += one.arrivedBytes;
    totals.sentBytes += one.sentBytes;
    if (one.stage === "done") totals.done += 1;
    else if (one.stage === "failed") totals.failed += 1;
    else totals.isBusy = true;
    if (one.isKnown) totals.known += 1;
  }
  return totals;
}

function waiting(chosen: Chosen): Item {
  const amounts = { sizeBytes: chosen.file.size, arrivedBytes: 0, hashedBytes: 0, sentBytes: 0 };
  return { chosen, path: chosen.path, stage: "waiting", isKnown: false, isWaiting: false, problem: "", ...amounts };
}

function unsent(item: Item, error: PartRefused): Error {
  return new Error(`${item.path} was not sent: ${error.message}. Try again: what has arrived is kept.`);
}

function changed(item: Item, error: PartRefused): Error {
  const advice = "Try again when nothing writes to it any more: it is then read anew.";
  return new Error(`${item.path} was not sent: ${error.message}. ${advice}`);
}

/** A browser tells a file that cannot be read any more as a lost connection, which would be waited out for ever. */
async function assertReadable(item: Item, body: Blob): Promise<void> {
  try {
    await body.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error(`${item.path} cannot be read any more: it was changed, moved or removed. Choose it again.`);
  }
}

/** How long to wait before the next try: doubling, and without an end only while nothing can be reached. */
class Pauses {
  #tries = 0;
  #pause = FIRST_PAUSE_MS;

  /** Returns milliseconds, or nothing where it was tried often enough. */
  next(isLost: boolean): number | undefined {
    if (!isLost) this.#tries += 1;
    if (this.#tries >= TRIES) return undefined;
    const pause = this.#pause;
    this.#pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    return pause;
  }
}

/** Lets so many in at once. */
class Gate {
  #free: number;
  #waiting: (() => void)[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  async pass<Result>(work: () => Promise<Result>): Promise<Result> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((enter) => this.#waiting.push(enter));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}
