// @vitest-environment jsdom
import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, createRouterTransport } from "@connectrpc/connect";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { createElement, type FunctionComponent } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Role, UserSchema } from "@/gen/reeltune/auth/v1/user_pb";
import { UserService } from "@/gen/reeltune/auth/v1/user_service_pb";
import { WorkerState } from "@/gen/reeltune/scheduler/v1/worker_pb";
import { WorkerService } from "@/gen/reeltune/scheduler/v1/worker_service_pb";

let lists: number;
let asked: object[];
let refusal: ConnectError | undefined;
let root: Root;
let place: HTMLElement;
let queries: QueryClient;

const ada = () => create(UserSchema, { id: "usr_1", username: "ada", etag: "v1", roles: [Role.USER] });
const routes = createRouterTransport(({ service }) => {
  service(UserService, {
    listUsers: () => ({ users: [(lists++, ada())] }),
    updateUser: (request) => {
      asked.push(request);
      if (refusal) throw refusal;
      return {};
    },
  });
  service(WorkerService, {
    listWorkers: () => ({ workers: [{ id: "wrk_1", name: `seen ${lists++} times`, state: WorkerState.IDLE }] }),
    drainWorker: (request) => {
      asked.push(request);
      return { worker: { id: "wrk_1", drainTime: timestampNow() } };
    },
  });
});
vi.mock("@/lib/clients", () => ({
  transport: routes,
  session: {
    subscribe: () => () => undefined,
    snapshot: () => SESSION,
  },
  users: createClient(UserService, routes),
}));
const SESSION = vi.hoisted(() => ({ kind: "out" }));
vi.mock("next/navigation", () => ({ useRouter: () => ({}), usePathname: () => "/admin" }));

beforeEach(() => {
  // jsdom knows no modal dialogs.
  HTMLDialogElement.prototype.showModal = function showModal() {
    this.open = true;
  };
  HTMLDialogElement.prototype.close = function close() {
    this.open = false;
  };
  [lists, asked, refusal] = [0, [], undefined];
  place = document.body.appendChild(document.createElement("div"));
  root = createRoot(place);
  queries = new QueryClient({ defaultOptions: { queries: { retry: false } } });
});
afterEach(() => {
  root.unmount();
  place.remove();
});

function show(of: FunctionComponent): void {
  root.render(createElement(QueryClientProvider, { client: queries }, createElement(of)));
}
const until = (text: string) => vi.waitFor(() => expect(place.textContent).toContain(text), { timeout: 10_000 });
const button = (name: string) =>
  [...place.querySelectorAll("button")].find(
    (one) => (one.ariaLabel ?? one.getAttribute("aria-label") ?? one.textContent) === name,
  )!;
const dialog = () => place.querySelector<HTMLDialogElement>("dialog[open]");

test("a list that is read again does not close the question that stands before it", async () => {
  const { Trainers } = await import("@/components/admin/trainers");
  show(Trainers);
  await until("seen 0 times");
  button("Take out of service: seen 0 times").click();
  const asking = dialog();
  expect(asking).not.toBeNull();
  expect(asked).toEqual([]);
  await queries.invalidateQueries();
  await until("seen 1 times");
  expect(dialog()).toBe(asking);

  [...asking!.querySelectorAll("button")].find((one) => one.textContent === "Take out of service")!.click();
  await vi.waitFor(() => expect(asked).toMatchObject([{ workerId: "wrk_1" }]));
  await vi.waitFor(() => expect(dialog()).toBeNull());
});

test("where somebody else was faster, that is told in the question, and the list is read again", async () => {
  const { Users } = await import("@/components/admin/users");
  refusal = new ConnectError("the user was changed meanwhile", Code.Aborted);
  show(Users);
  await until("ada");
  const before = lists;
  button("Bar: ada").click();
  [...dialog()!.querySelectorAll("button")].find((one) => one.textContent === "Bar")!.click();
  await until("The user was changed meanwhile");

  expect(asked).toMatchObject([
    { user: { id: "usr_1", etag: "v1", disabled: true }, updateMask: { paths: ["disabled"] } },
  ]);
  expect(dialog()).not.toBeNull();
  await vi.waitFor(() => expect(lists).toBeGreaterThan(before));
});
