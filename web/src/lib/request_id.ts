// The `request_id` of a change: the same for each try of the same change, so that one whose answer was lost happens once.
import { useState } from "react";

export class RequestId {
  #of = "";
  #id = "";

  /** Returns the id for what is asked for; another one when something else is. */
  for(change: unknown): string {
    const text = JSON.stringify(change);
    if (text !== this.#of || !this.#id) this.#id = crypto.randomUUID();
    this.#of = text;
    return this.#id;
  }

  /** Call when the change has happened: asked for once more, it is another one. */
  done(): void {
    this.#id = "";
  }
}

export function useRequestId(): RequestId {
  const [made] = useState(() => new RequestId());
  return made;
}
