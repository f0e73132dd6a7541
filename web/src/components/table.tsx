import type { ReactNode } from "react";
import { cx } from "./ui";

export interface TableRow {
  key: string;
  /** The first one names the row. */
  cells: ReactNode[];
}

/** Numbers by row and column; what is wider than the page scrolls by itself. */
export function Table({
  label,
  head,
  rows,
  isText = false,
}: {
  /** What it shows; unlike that of any other table of the page. */
  label: string;
  head: ReactNode[];
  rows: TableRow[];
  /** Whether cells are read and not compared, so that they begin at the left. */
  isText?: boolean;
}) {
  const side = (index: number) => (index > 0 && !isText ? "text-right" : "text-left");
  return (
    <div tabIndex={0} role="region" aria-label={label} className="-mx-1 overflow-x-auto rounded-lg px-1">
      <table className="w-full text-sm tabular-nums">
        <thead>
          <tr>
            {head.map((name, index) => (
              <th
                key={index}
                scope="col"
                className={cx(
                  "pb-2 pl-4 align-bottom text-xs font-medium whitespace-nowrap text-ink-soft first:pl-0",
                  side(index),
                )}
              >
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.key} className="border-t border-line">
              {row.cells.map((cell, index) =>
                index === 0 ? (
                  <th key={index} scope="row" className="min-w-28 py-2 text-left align-top font-medium">
                    {cell}
                  </th>
                ) : (
                  <td key={index} className={cx("py-2 pl-4 align-top", side(index), !isText && "whitespace-nowrap")}>
                    {cell}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
