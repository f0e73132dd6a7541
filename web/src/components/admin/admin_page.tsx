"use client";

import { isAdmin } from "@/lib/admin";
import { useSession } from "../shell";
import { Tabs } from "../tabs";
import { Empty, PageTitle } from "../ui";
import { Limits } from "./limits";
import { Storage } from "./storage";
import { Trainers } from "./trainers";
import { Users } from "./users";

/** What only admins may do: users, trainers, limits, and who has stored how much. */
export function AdminPage() {
  const state = useSession();
  if (state.kind !== "in") return null;
  if (!isAdmin(state.user))
    return (
      <>
        <h1 className="sr-only">Admin</h1>
        <Empty title="This page is for admins">
          An operator makes the first one by <code>python -m auth_svc grant-admin USERNAME</code>; admins make others
          here. Log in anew after that.
        </Empty>
      </>
    );
  const tabs = [
    { name: "Users", content: () => <Users /> },
    { name: "Trainers", content: () => <Trainers /> },
    { name: "Limits", content: () => <Limits /> },
    { name: "Storage", content: () => <Storage /> },
  ];
  return (
    <>
      <PageTitle title="Admin">Who may use this service, on which trainers, and how much of it.</PageTitle>
      <Tabs label="Views of the service" tabs={tabs} />
    </>
  );
}
