// @vitest-environment jsdom
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { beforeEach, expect, test, vi } from "vitest";
import { AuthService } from "@/gen/reeltune/auth/v1/auth_service_pb";
import { UserService } from "@/gen/reeltune/auth/v1/user_service_pb";
import { DatasetService } from "@/gen/reeltune/catalog/v1/dataset_service_pb";
import { type Door, Session, withToken } from "@/lib/session";
import { follow } from "@/lib/watch";

const ADA = { id: "usr_ada", username: "ada" };
const MARK = "reeltune.signed-in";
let door: { [Name in keyof Door]: ReturnType<typeof vi.fn<() => void>> };
let made = "";
let renewals = 0;
let isOver = false;
let refused = 0;

const soon = () => timestampFromMs(Date.now() + 600_000);
const routes = createRouterTransport(({ service }) => {
  service(AuthService, {
    login: (_, { requestHeader }) => {
      expect(requestHeader.get("x-reeltune-session")).toBe("cookie");
      return {
        user: ADA,
        tokens: { accessToken: made || "first", accessExpireTime: made ? timestampFromMs(1_600_000) : soon() },
      };
    },
    refreshSession: ({ refreshToken }) => {
      expect(refreshToken).toBe("");
      if (isOver) throw new ConnectError("log in again", Code.Unauthenticated);
      renewals += 1;
      return { tokens: { accessToken: `renewed-${renewals}`, accessExpireTime: soon() } };
    },
    logout: () => ({}),
  });
  service(UserService, { getMe: () => ({ user: ADA }) });
});

const newSession = () => new Session(routes, door);

function datasetsOf(session: Session) {
  const transport = createRouterTransport(
    ({ service }) => {
      service(DatasetService, {
        listDatasets: (_, { requestHeader }) => {
          if (requestHeader.get("authorization") === "Bearer first" && refused-- > 0)
            throw new ConnectError("ended", Code.Unauthenticated);
          return { nextPageToken: requestHeader.get("authorization")! };
        },
        watchDataset: async function* (_, { requestHeader }) {
          if (requestHeader.get("authorization") === "Bearer first")
            throw new ConnectError("ended", Code.Unauthenticated);
          yield { dataset: { name: requestHeader.get("authorization")! } };
        },
      });
    },
    { transport: { interceptors: [withToken(session)] } },
  );
  return createClient(DatasetService, transport);
}

beforeEach(() => {
  localStorage.clear();
  sessionStorage.clear();
  door = { toLogin: vi.fn(), reload: vi.fn() };
  made = "";
  renewals = 0;
  isOver = false;
  refused = 0;
});

test("nobody's first visit asks the service for nothing", async () => {
  const session = newSession();
  await session.resume();

  expect(session.state.kind).toBe("out");
  expect(renewals).toBe(0);
});

test("a reload finds the session again, and no token is kept where scripts find it", async () => {
  await newSession().logIn("ada", "a long pass phrase");
  const reloaded = newSession();
  await reloaded.resume();

  expect(reloaded.state).toMatchObject({ kind: "in", user: { username: "ada" } });
  expect(JSON.stringify({ ...localStorage, ...sessionStorage })).not.toMatch(/first|renewed/);
});

test("calls that start together renew the token once", async () => {
  localStorage.setItem("reeltune.signed-in", "yes");
  const session = newSession();
  const datasets = datasetsOf(session);
  const answers = await Promise.all([1, 2, 3].map(() => datasets.listDatasets({})));

  expect(renewals).toBe(1);
  expect(answers.map((answer) => answer.nextPageToken)).toEqual(Array(3).fill("Bearer renewed-1"));
});

test("a call that the service refuses for its token is sent once more with a fresh one", async () => {
  const session = newSession();
  await session.logIn("ada", "a long pass phrase");
  refused = 1;

  expect((await datasetsOf(session).listDatasets({})).nextPageToken).toBe("Bearer renewed-1");
});

test("a watch that is refused for its token is taken up with a fresh one", async () => {
  const session = newSession();
  await session.logIn("ada", "a long pass phrase");
  const seen: string[] = [];
  const stop = new AbortController();
  const open = (signal: AbortSignal) => datasetsOf(session).watchDataset({}, { signal });
  await follow({ open, onMessage: ({ dataset }) => seen.push(dataset!.name) }, stop.signal);

  expect(seen).toEqual(["Bearer renewed-1"]);
});

test("a session that is over leads out, and takes drafts with it", async () => {
  const session = newSession();
  await session.logIn("ada", "a long pass phrase");
  sessionStorage.setItem("draft", "x");
  isOver = true;
  await expect(session.renew()).rejects.toThrow("log in again");

  expect(session.state.kind).toBe("left");
  expect(door.toLogin).toHaveBeenCalledOnce();
  expect([localStorage.length, sessionStorage.length]).toEqual([0, 0]);
});

test("a page whose user has changed in another tab is loaded anew", async () => {
  const session = newSession();
  await session.logIn("ada", "a long pass phrase");
  session.look();
  expect(door.reload).not.toHaveBeenCalled();
  localStorage.setItem(MARK, "usr_bob");
  session.look();

  expect(door.reload).toHaveBeenCalledOnce();
  expect(session.state.kind).toBe("left");
  expect(localStorage.getItem(MARK)).toBe("usr_bob");
});

test("a page that did not hear of another user does not go on with that user's cookie", async () => {
  const session = newSession();
  await session.logIn("ada", "a long pass phrase");
  localStorage.setItem(MARK, "usr_bob");
  await expect(session.renew()).rejects.toThrow("another user");

  expect(renewals).toBe(0);
  expect(door.reload).toHaveBeenCalledOnce();
  expect(localStorage.getItem(MARK)).toBe("usr_bob");
});

test("a token is good as long as it says, whatever the service's clock shows", async () => {
  const part = (value: object) => btoa(JSON.stringify(value)).replaceAll("=", "");
  made = `${part({})}.${part({ iat: 1000, exp: 1600 })}.x`;
  const session = newSession();
  await session.logIn("ada", "a long pass phrase");

  expect(await session.token()).toBe(made);
  expect(renewals).toBe(0);
});
