import { type ReactNode, useState } from "react";
import { measured } from "@/lib/format";

/** Of a longer one the last steps. */
const MOST_ROWS = 200;

/** What a chart shows, in numbers: a row for each step. */
export function DataTable({
  label,
  head,
  steps,
  columns,
}: {
  label: string;
  /** Of each column. */
  head: ReactNode[];
  steps: readonly number[];
  columns: readonly (readonly (number | null)[])[];
}) {
  const [isOpen, setOpen] = useState(false);
  const from = Math.max(0, steps.length - MOST_ROWS);
  const cell = (value: number | null | undefined) => (value == null ? "" : measured(value));
  return (
    <details className="mt-3 text-sm" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="text-ink-soft">As a table</summary>
      {isOpen && (
        <div tabIndex={0} role="region" aria-label={label} className="mt-2 max-h-64 overflow-auto">
          <table className="w-full text-left tabular-nums">
            <thead>
              <tr>
                {["Step", ...head].map((name, index) => (
                  <th key={index} scope="col" className="pr-4 font-medium">
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {steps.slice(from).map((step, index) => (
                <tr key={step} className="border-t border-line">
                  <td>{step}</td>
                  {columns.map((column, number) => (
                    <td key={number} className="pr-4">
                      {cell(column[from + index])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </details>
  );
}
