// Where the parts of one file may be sent, for as long as that takes: addresses end, and are asked for anew.
import type { Upload, UploadPart } from "@/gen/reeltune/catalog/v1/upload_pb";

/** Addresses last 15 minutes by the service's clock; this page counts on its own, from before it asked. */
const GOOD_MS = 14 * 60_000;

/** One offer that all parts of a file share, so that each renewal helps all. */
export class Offer {
  #upload: Promise<Upload>;
  #endsAt = 0;

  constructor(private readonly ask: () => Promise<Upload>) {
    this.#upload = this.#renewed();
  }

  /** Returns the offer as it is; throws what asking for it threw. */
  get upload(): Promise<Upload> {
    return this.#upload;
  }

  /**
   * Returns a part with an address that is good, or nothing where it need not be sent any more.
   *
   * `refused` is an address that did not work: unless another part has brought a fresh one meanwhile, it is renewed.
   */
  async part(number: number, refused = ""): Promise<UploadPart | undefined> {
    const seen = this.#upload;
    const part = find(await seen, number);
    if (part && Date.now() < this.#endsAt && part.url !== refused) return part;
    if (this.#upload === seen) this.#upload = this.#renewed();
    return find(await this.#upload, number);
  }

  async #renewed(): Promise<Upload> {
    const began = Date.now();
    this.#endsAt = Infinity; // while it is asked for, everybody waits for the same answer
    const upload = await this.ask();
    this.#endsAt = began + GOOD_MS;
    return upload;
  }
}

function find(upload: Upload, number: number): UploadPart | undefined {
  return upload.parts.find((part) => part.number === number && !part.arrived);
}
