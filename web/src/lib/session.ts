// Who is signed in. The access token lives in this page's memory; the refresh token in a cookie that no script can read.
import { type Client, Code, ConnectError, createClient, type Interceptor, type Transport } from "@connectrpc/connect";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { SessionTokens } from "@/gen/reeltune/auth/v1/session_pb";
import { AuthService } from "@/gen/reeltune/auth/v1/auth_service_pb";
import type { User } from "@/gen/reeltune/auth/v1/user_pb";
import { UserService } from "@/gen/reeltune/auth/v1/user_service_pb";

export type SessionState = { kind: "unknown" } | { kind: "out" } | { kind: "in"; user: User };

const COOKIE = { headers: { "x-reeltune-session": "cookie" } };
const RENEW_BEFORE_MS = 60_000;
/** Tells other tabs that this one has signed in or out; holds no secret. */
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
  constructor(transport: Transport) {
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
    if (this.#state.kind === "in") return;
    if (!localStorage.getItem(MARK)) return this.#become({ kind: "out" });
    try {
      const token = await this.token();
      const answer = await this.#users.getMe({}, { headers: { authorization: `Bearer ${token}` } });
      if (answer.user) this.#become({ kind: "in", user: answer.user });
    } catch (error) {
      if (!isOver(error)) throw error;
      this.#forget();
    }
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
    localStorage.setItem(MARK, "yes");
    if (user) this.#become({ kind: "in", user });
  }

  #keep(tokens: SessionTokens | undefined): void {
    this.#token = tokens?.accessToken ?? "";
    this.#endsAt = tokens?.accessExpireTime ? timestampMs(tokens.accessExpireTime) : 0;
  }

  #forget(): void {
    this.#token = "";
    this.#endsAt = 0;
    localStorage.removeItem(MARK);
    this.#become({ kind: "out" });
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
    try {
      return await next(request);
    } catch (error) {
      // A stream's messages are read once and cannot be sent again; who watches begins anew by themselves.
      if (request.stream || !(error instanceof ConnectError) || error.code !== Code.Unauthenticated) throw error;
      request.header.set("authorization", `Bearer ${await session.renew()}`);
      return next(request);
    }
  };
}

function isOver(error: unknown): boolean {
  return error instanceof ConnectError && error.code === Code.Unauthenticated;
}
