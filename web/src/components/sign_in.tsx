"use client";

import Link from "next/link";
import { useRouter, useSearchParams } from "next/navigation";
import { type FormEvent, Suspense, useEffect, useState } from "react";
import { session } from "@/lib/clients";
import { explain, type Problem as Trouble } from "@/lib/errors";
import { Brand } from "./brand";
import { ThemeButton, useSession } from "./shell";
import { Button, Field, Problem } from "./ui";

type Kind = "log in" | "sign up";

export function SignIn({ kind }: { kind: Kind }) {
  return (
    <div className="grid min-h-dvh lg:grid-cols-2">
      <aside className="hidden flex-col justify-between bg-accent-soft p-12 lg:flex">
        <Brand />
        <div className="max-w-md">
          <p className="text-3xl leading-snug font-semibold tracking-tight">
            Teach a video model what your clips show.
          </p>
          <p className="mt-4 text-ink-soft">
            Drop clips and captions, see every one decoded and checked, train an adapter, ask it about a clip. On your
            own machines.
          </p>
        </div>
        <p className="text-sm text-ink-soft">Nothing that you upload leaves this installation.</p>
      </aside>
      <main className="flex flex-col px-6 py-6">
        <div className="flex items-center justify-between lg:justify-end">
          <span className="lg:hidden">
            <Brand />
          </span>
          <ThemeButton />
        </div>
        <div className="m-auto w-full max-w-sm py-8">
          <Suspense>
            <Form kind={kind} />
          </Suspense>
        </div>
      </main>
    </div>
  );
}

function Form({ kind }: { kind: Kind }) {
  const router = useRouter();
  const next = useSearchParams().get("next") ?? "";
  const state = useSession();
  const [problem, setProblem] = useState<Trouble>();
  const [isBusy, setBusy] = useState(false);
  const isNew = kind === "sign up";

  useEffect(() => {
    session.resume().catch(() => undefined); // who comes here signs in anyway
  }, []);
  useEffect(() => {
    // Only to a page of this site: `next` comes from the address.
    if (state.kind === "in") router.replace(/^\/[a-z]/.test(next) ? next : "/datasets");
  }, [state.kind, next, router]);

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    const text = (name: string) => String(data.get(name) ?? "");
    setBusy(true);
    setProblem(undefined);
    try {
      if (isNew) await session.signUp(text("username"), text("email"), text("password"));
      else await session.logIn(text("username"), text("password"));
    } catch (error) {
      setProblem(explain(error));
      setBusy(false);
    }
  }

  const fields = problem?.fields ?? {};
  const isAboutField = Object.keys(fields).length > 0;
  const suffix = next ? `?next=${encodeURIComponent(next)}` : "";
  return (
    <form onSubmit={(event) => void submit(event)} className="space-y-4" noValidate>
      <h1 className="text-2xl font-semibold tracking-tight">{isNew ? "Create your account" : "Welcome back"}</h1>
      {problem && !isAboutField && <Problem>{problem.message}</Problem>}
      <Field
        label={isNew ? "Username" : "Username or e-mail"}
        name="username"
        autoComplete="username"
        autoCapitalize="none"
        required
        problem={fields.username}
      />
      {isNew && <Field label="E-mail" name="email" type="email" autoComplete="email" required problem={fields.email} />}
      <Field
        label="Password"
        name="password"
        type="password"
        autoComplete={isNew ? "new-password" : "current-password"}
        required
        problem={fields.password}
        hint={isNew ? "15 characters or more. A sentence is good." : undefined}
      />
      <Button type="submit" look="primary" isBusy={isBusy} className="w-full">
        {isNew ? "Create account" : "Log in"}
      </Button>
      <p className="text-sm text-ink-soft">
        {isNew ? "Have one already? " : "New here? "}
        <Link
          href={(isNew ? "/login" : "/signup") + suffix}
          className="font-medium text-accent underline underline-offset-4"
        >
          {isNew ? "Log in" : "Create an account"}
        </Link>
      </p>
    </form>
  );
}
