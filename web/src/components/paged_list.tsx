import type { UseInfiniteQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Button } from "./ui";
import { Unread } from "./unread";

/** What a page by page list is at any time: on its way, failed, empty, or its items with more to come. */
export function PagedList<Item extends { id: string }>({
  list,
  what,
  items,
  empty,
  row: Row,
}: {
  list: Pick<
    UseInfiniteQueryResult,
    | "isPending"
    | "isError"
    | "isSuccess"
    | "error"
    | "failureReason"
    | "refetch"
    | "hasNextPage"
    | "isFetchingNextPage"
    | "fetchNextPage"
  >;
  /** In the plural. */
  what: string;
  /** Of all pages so far. */
  items: Item[];
  /** In place of no items. */
  empty: ReactNode;
  row: (props: { item: Item }) => ReactNode;
}) {
  return (
    <>
      {(list.isPending || list.isError) && <Unread of={list} what={`Loading ${what} …`} />}
      {list.isSuccess && items.length === 0 && empty}
      <ul className="divide-y divide-line overflow-hidden rounded-xl border border-line bg-panel empty:hidden">
        {items.map((item) => (
          <Row key={item.id} item={item} />
        ))}
      </ul>
      {list.hasNextPage && (
        <Button className="mt-4" isBusy={list.isFetchingNextPage} onClick={() => void list.fetchNextPage()}>
          Show more
        </Button>
      )}
    </>
  );
}
