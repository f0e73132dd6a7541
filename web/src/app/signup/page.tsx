import type { Metadata } from "next";
import { SignIn } from "@/components/sign_in";

export const metadata: Metadata = { title: "Sign up" };

export default function Page() {
  return <SignIn kind="sign up" />;
}
