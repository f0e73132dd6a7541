import type { Metadata } from "next";
import { SignIn } from "@/components/sign_in";

export const metadata: Metadata = { title: "Log in" };

export default function Page() {
  return <SignIn kind="log in" />;
}
