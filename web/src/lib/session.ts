// Who is signed in. The access token lives in this page's memory; the refresh token in a cookie that no script can read.
import {
  type Client,
  Code,
  ConnectError,
  createClient,
  type Interceptor,
  type StreamRequest,
  type StreamResponse,
  type Transport,
} from "@connectrpc/connect";
import type { Message } from "@bufbuild/protobuf";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { SessionTokens } from "@/gen/reeltune/auth/v1/session_pb";
import { AuthService } from "@/gen/reeltune/auth/v1/auth_service_pb";
import type { User } from "@/gen/reeltune/auth/v1/user_pb";
import { UserService } from "@/gen/reeltune/auth/v1/user_service_pb";

/** `left`: this page has lost its session, or another tab has changed it, and is being replaced as a whole. */
export type SessionState = { kind: "unknown" } | { kind: "out" } | { kind: "in"; user: User } | { kind: "left" };

/** How a page is replaced by a freshly loaded one: nothing that it holds in memory may be seen by the next user. */
export interface Door {
  toLogin: () => void;
  reload: () => void;
}

const COOKIE = { headers: { "x-reeltune-session": "cookie" } };
const RENEW_BEFORE_MS = 60_000;
/** Tells other tabs who has signed in, by the user's id; holds no secret. */
const MARK = "reeltune.signed-in";

export class Session {
  #auth: Client<typeof AuthService>;
  #users: Client<typeof UserService>;
  #token = "";
  #endsAt = 0;
  #state: SessionState = { kind: "unknown" };
  #listeners = new Set<() => void>();
  #renewal: Promise<string> | undefined;

  /** `transport` must not be one that this session gives tokens to. */
  constructor(
    transport: Transport,
    private readonly door: Door,
  ) {
    this.#auth = createClient(AuthService, transport);
    this.#users = createClient(UserService, transport);
  }

  get state(): SessionState {
    return this.#state;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  snapshot = (): SessionState => this.#state;

  /** Finds out whether the browser still holds a session. Never throws for a session that is over. */
  async resume(): Promise<void> {
    if (this.#state.kind === "in" || this.#state.kind === "left") return;
    const mark = localStorage.getItem(MARK);
    if (!mark) return this.#become({ kind: "out" });
    try {
      const token = await this.token();
      const answer = await this.#users.getMe({}, { headers: { authorization: `Bearer ${token}` } });
      if (!answer.user) return;
      if (localStorage.getItem(MARK) === mark) localStorage.setItem(MARK, answer.user.id);
      this.#become({ kind: "in", user: answer.user });
      this.look();
    } catch (error) {
      if (!isOver(error)) throw error;
      this.#forget();
    }
  }

  /** Compares with what other tabs have left: where another user is signed in by now, or nobody, the page is replaced. */
  look(): void {
    if (this.#state.kind !== "in" && this.#state.kind !== "out") return;
    const own = this.#state.kind === "in" ? this.#state.user.id : "";
    if ((localStorage.getItem(MARK) ?? "") === own) return;
    this.#leave();
    this.door.reload();
  }

  async signUp(username: string, email: string, password: string): Promise<void> {
    const answer = await this.#auth.signUp({ username, email, password }, COOKIE);
    this.#enter(answer.user, answer.tokens);
  }

  async logIn(username: string, password: string): Promise<void> {
    const answer = await this.#auth.login({ username, password }, COOKIE);
    this.#enter(answer.user, answer.tokens);
  }

  async logOut(): Promise<void> {
    try {
      const headers = { ...COOKIE.headers, authorization: `Bearer ${await this.token()}` };
      await this.#auth.logout({}, { headers });
    } catch (error) {
      if (!isOver(error)) throw error;
    }
    this.#forget();
  }

  /** Returns an access token that is good for a minute at least. */
  async token(): Promise<string> {
    if (this.#token && Date.now() < this.#endsAt - RENEW_BEFORE_MS) return this.#token;
    return this.renew();
  }

  /** Trades the cookie for the next tokens; one call at a time, over all tabs, as a refresh token works once. */
  renew(): Promise<string> {
    this.#renewal ??= this.#trade().finally(() => (this.#renewal = undefined));
    return this.#renewal;
  }

  async #trade(): Promise<string> {
    const trade = async () => {
      // The cookie is all tabs'; a page that has not heard yet that it is another user's must not go on with it.
      this.look();
      if (this.#state.kind === "left") throw new ConnectError("signed in as another user", Code.Unauthenticated);
      const { tokens } = await this.#auth.refreshSession({}, COOKIE);
      this.#keep(tokens);
      return this.#token;
    };
    try {
      return await (navigator.locks ? navigator.locks.request("reeltune.refresh", trade) : trade());
    } catch (error) {
      if (isOver(error)) this.#forget();
      throw error;
    }
  }

  #enter(user: User | undefined, tokens: SessionTokens | undefined): void {
    this.#keep(tokens);
    if (!user) return;
    localStorage.setItem(MARK, user.id);
    this.#become({ kind: "in", user });
  }

  #keep(tokens: SessionTokens | undefined): void {
    this.#token = tokens?.accessToken ?? "";
    // By this page's own clock: that of the service may be another one.
    const lasts = lifetimeMs(this.#token);
    if (lasts !== undefined) this.#endsAt = Date.now() + lasts;
    else this.#endsAt = tokens?.accessExpireTime ? timestampMs(tokens.accessExpireTime) : 0;
  }

  #forget(): void {
    if (this.#state.kind === "left") return;
    localStorage.removeItem(MARK);
    const wasIn = this.#state.kind === "in";
    this.#leave();
    if (wasIn) this.door.toLogin();
    else this.#become({ kind: "out" });
  }

  #leave(): void {
    this.#token = "";
    this.#endsAt = 0;
    sessionStorage.clear(); // drafts
    this.#become({ kind: "left" });
  }

  #become(state: SessionState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}

/** Puts the session's token on every call, and renews it once when the service says that it has ended. */
export function withToken(session: Session): Interceptor {
  return (next) => async (request) => {
    request.header.set("authorization", `Bearer ${await session.token()}`);
    if (request.stream) return stream(session, request, next);
    try {
      return await next(request);
    } catch (error) {
      if (!isOver(error)) throw error;
      request.header.set("authorization", `Bearer ${await session.renew()}`);
      return next(request);
    }
  };
}

/** Opens a stream, and once more with a fresh token where it is refused before it has told anything. */
async function stream(
  session: Session,
  request: StreamRequest,
  next: Parameters<Interceptor>[0],
): Promise<StreamResponse> {
  // What a browser sends is one message; it can be read once only, so it is kept for the second try.
  const sent: Message[] = [];
  for await (const message of request.message) sent.push(message);
  const open = () => next({ ...request, message: each(sent) }) as Promise<StreamResponse>;
  const openAgain = async (error: unknown) => {
    if (!isOver(error)) throw error;
    request.header.set("authorization", `Bearer ${await session.renew()}`);
    return open();
  };
  async function* told(first: StreamResponse) {
    let isBegun = false;
    try {
      for await (const message of first.message) {
        isBegun = true;
        yield message;
      }
    } catch (error) {
      if (isBegun) throw error; // who watches begins anew by themselves
      yield* (await openAgain(error)).message;
    }
  }
  const response = await open().catch(openAgain);
  return { ...response, message: told(response) };
}

async function* each(messages: readonly Message[]) {
  yield* messages;
}

/** Returns how long an access token is good from when it was made, in milliseconds; nothing where it does not say. */
function lifetimeMs(token: string): number | undefined {
  try {
    const payload = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { exp, iat } = JSON.parse(atob(payload)) as { exp: number; iat: number };
    return exp > iat ? (exp - iat) * 1000 : undefined;
  } catch {
    return undefined;
  }
}

function isOver(error: unknown): boolean {
  return error instanceof ConnectError && error.code === Code.Unauthenticated;
}
