// @vitest-environment jsdom
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { beforeEach, expect, test } from "vitest";
import { AuthService } from "@/gen/reeltune/auth/v1/auth_service_pb";
import { UserService } from "@/gen/reeltune/auth/v1/user_service_pb";
import { DatasetService } from "@/gen/reeltune/catalog/v1/dataset_service_pb";
import { Session, withToken } from "@/lib/session";

let renewals = 0;
let isOver = false;
let refused = 0;

const soon = () => timestampFromMs(Date.now() + 600_000);
const routes = createRouterTransport(({ service }) => {
  service(AuthService, {
    login: (_, { requestHeader }) => {
      expect(requestHeader.get("x-reeltune-session")).toBe("cookie");
      return { user: { username: "ada" }, tokens: { accessToken: "first", accessExpireTime: soon() } };
    },
    refreshSession: ({ refreshToken }) => {
      expect(refreshToken).toBe("");
      if (isOver) throw new ConnectError("log in again", Code.Unauthenticated);
      renewals += 1;
      return { tokens: { accessToken: `renewed-${renewals}`, accessExpireTime: soon() } };
    },
    logout: () => ({}),
  });
  service(UserService, { getMe: () => ({ user: { username: "ada" } }) });
});

function datasetsOf(session: Session) {
  const transport = createRouterTransport(
    ({ service }) => {
      service(DatasetService, {
        listDatasets: (_, { requestHeader }) => {
          if (requestHeader.get("authorization") === "Bearer first" && refused-- > 0)
            throw new ConnectError("ended", Code.Unauthenticated);
          return { nextPageToken: requestHeader.get("authorization")! };
        },
      });
    },
    { transport: { interceptors: [withToken(session)] } },
  );
  return createClient(DatasetService, transport);
}

beforeEach(() => {
  localStorage.clear();
  renewals = 0;
  isOver = false;
  refused = 0;
});

test("nobody's first visit asks the service for nothing", async () => {
  const session = new Session(routes);
  await session.resume();

  expect(session.state.kind).toBe("out");
  expect(renewals).toBe(0);
});

test("a reload finds the session again, and no token is kept where scripts find it", async () => {
  await new Session(routes).logIn("ada", "a long pass phrase");
  const reloaded = new Session(routes);
  await reloaded.resume();

  expect(reloaded.state).toMatchObject({ kind: "in", user: { username: "ada" } });
  expect(JSON.stringify({ ...localStorage, ...sessionStorage })).not.toMatch(/first|renewed/);
});

test("calls that start together renew the token once", async () => {
  localStorage.setItem("reeltune.signed-in", "yes");
  const session = new Session(routes);
  const datasets = datasetsOf(session);
  const answers = await Promise.all([1, 2, 3].map(() => datasets.listDatasets({})));

  expect(renewals).toBe(1);
  expect(answers.map((answer) => answer.nextPageToken)).toEqual(Array(3).fill("Bearer renewed-1"));
});

test("a call that the service refuses for its token is sent once more with a fresh one", async () => {
  const session = new Session(routes);
  await session.logIn("ada", "a long pass phrase");
  refused = 1;

  expect((await datasetsOf(session).listDatasets({})).nextPageToken).toBe("Bearer renewed-1");
});

test("a session that is over leads out", async () => {
  const session = new Session(routes);
  await session.logIn("ada", "a long pass phrase");
  isOver = true;
  await expect(session.renew()).rejects.toThrow("log in again");

  expect(session.state.kind).toBe("out");
});
