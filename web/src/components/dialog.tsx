"use client";

import { type ReactNode, type RefObject, useId } from "react";

/** A question that waits for its answer; Escape closes it. Open it by `ref.current?.showModal()`. */
export function Dialog({
  ref,
  title,
  onClose,
  children,
}: {
  ref: RefObject<HTMLDialogElement | null>;
  title: string;
  onClose?: () => void;
  children: ReactNode;
}) {
  const id = useId();
  return (
    <dialog
      ref={ref}
      aria-labelledby={id}
      onClose={onClose}
      className="m-auto w-full max-w-md rounded-xl border border-line bg-panel p-6 text-ink backdrop:bg-black/50"
    >
      <h2 id={id} className="mb-4 text-lg font-semibold">
        {title}
      </h2>
      {children}
    </dialog>
  );
}
