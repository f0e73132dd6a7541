"use client";

import { timestampDate } from "@bufbuild/protobuf/wkt";
import { keepPreviousData, useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useDeferredValue, useState } from "react";
import { Role, type User } from "@/gen/reeltune/auth/v1/user_pb";
import { isAdmin, userFilter, users } from "@/lib/admin";
import { ago } from "@/lib/format";
import { PagedList } from "../paged_list";
import { useSession } from "../shell";
import { Chip, Empty, Field } from "../ui";
import { ConfirmButton } from "./confirm";
import { LimitsOf } from "./limits";

const KEY = "admin-users";

/** Who has signed up, and what they may do. */
export function Users() {
  const [part, setPart] = useState("");
  const [isBarredOnly, setBarredOnly] = useState(false);
  const filter = userFilter(useDeferredValue(part), isBarredOnly);
  const list = useInfiniteQuery({
    queryKey: [KEY, filter],
    queryFn: ({ pageParam, signal }) => users.listUsers({ pageSize: 50, pageToken: pageParam, filter }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    placeholderData: keepPreviousData,
  });
  const found = list.data?.pages.flatMap((page) => page.users) ?? [];
  return (
    <>
      <h2 className="sr-only">Users</h2>
      <div className="mb-4 flex flex-wrap items-end gap-x-6 gap-y-3">
        <Field
          label="Find"
          className="w-full max-w-xs"
          type="search"
          maxLength={254}
          placeholder="part of a name or address"
          value={part}
          onChange={(event) => setPart(event.target.value)}
        />
        <label className="flex items-center gap-2 pb-2 text-sm">
          <input
            type="checkbox"
            className="accent-accent"
            checked={isBarredOnly}
            onChange={(event) => setBarredOnly(event.target.checked)}
          />
          Barred ones only
        </label>
      </div>
      <PagedList list={list} what="users" items={found} empty={<Empty title="There is no such user" />} row={Row} />
    </>
  );
}

function Row({ item: user }: { item: User }) {
  const session = useSession();
  const isSelf = session.kind === "in" && session.user.id === user.id;
  return (
    <li className="flex flex-wrap items-center gap-x-6 gap-y-2 px-5 py-3">
      <div className="min-w-0 flex-1 basis-56">
        <p className="flex flex-wrap items-center gap-2 font-medium break-all">
          {user.username}
          {isAdmin(user) && <Chip tone="accent">admin</Chip>}
          {user.disabled && <Chip tone="bad">barred</Chip>}
          {isSelf && <Chip tone="plain">you</Chip>}
        </p>
        <p className="text-sm text-ink-soft">
          <span className="break-all">{user.email}</span>
          {user.createTime && ` · signed up ${ago(timestampDate(user.createTime))}`}
        </p>
      </div>
      <div className="flex flex-wrap gap-2">
        <LimitsOf userId={user.id} name={user.username} />
        <RoleButton user={user} isSelf={isSelf} />
        <BarButton user={user} isSelf={isSelf} />
      </div>
    </li>
  );
}

interface ButtonProps {
  user: User;
  isSelf: boolean;
}

function useUpdate(user: User) {
  const client = useQueryClient();
  return async (change: { roles?: Role[]; disabled?: boolean }) => {
    try {
      await users.updateUser({
        user: { id: user.id, etag: user.etag, ...change },
        updateMask: { paths: Object.keys(change) },
      });
    } finally {
      // Also where somebody else was faster: what they have changed is to be seen. The question does not wait for it, whose words would change.
      void client.invalidateQueries({ queryKey: [KEY] });
    }
  };
}

function RoleButton({ user, isSelf }: ButtonProps) {
  const update = useUpdate(user);
  const others = user.roles.filter((role) => role !== Role.ADMIN);
  if (!isAdmin(user))
    return (
      <ConfirmButton
        label="Make admin"
        of={user.username}
        title={`Make ${user.username} an admin?`}
        verb="Make admin"
        work={() => update({ roles: [...others, Role.ADMIN] })}
      >
        An admin sees every trainer and all users, bars users, sets limits and makes other admins. It counts from the
        next time that their session is renewed: after 10 minutes at most.
      </ConfirmButton>
    );
  return (
    <ConfirmButton
      label="Take admin away"
      of={user.username}
      title={`Take the role of admin from ${user.username}?`}
      verb="Take it away"
      look="danger"
      work={() => update({ roles: others.length > 0 ? others : [Role.USER] })}
    >
      {isSelf ? "You cannot give it back to yourself: another admin would have to. " : "Any admin can give it back. "}
      Their datasets, models and jobs stay.
    </ConfirmButton>
  );
}

function BarButton({ user, isSelf }: ButtonProps) {
  const update = useUpdate(user);
  if (user.disabled)
    return (
      <ConfirmButton
        label="Let in again"
        of={user.username}
        title={`Let ${user.username} in again?`}
        verb="Let in again"
        work={() => update({ disabled: false })}
      >
        They sign in with the password that they had.
      </ConfirmButton>
    );
  return (
    <ConfirmButton
      label="Bar"
      of={user.username}
      title={`Bar ${user.username}?`}
      verb="Bar"
      look="danger"
      work={() => update({ disabled: true })}
    >
      {isSelf && (
        <p className="mb-2 font-medium text-bad">This is you: you would be signed out and not get in again.</p>
      )}
      They are signed out everywhere and cannot sign in until they are let in again. Sessions that were cut do not come
      back. Their jobs go on; their files stay.
    </ConfirmButton>
  );
}
