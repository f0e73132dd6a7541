// Which rows of a dataset an evaluation asks about.
export interface Split {
  name: string;
  count: bigint;
}

/** What rows name a split that is held out: those of the first that is there are asked when no split is named. */
const HELD_OUT = [["eval", "validation", "val"], ["test"]];

/** More are not told. */
const MOST_SPLITS = 50;

/** The split whose rows are asked about when none is named; nothing where a dataset has none of the kind. */
export function heldOut(splits: readonly Split[]): Split | undefined {
  for (const names of HELD_OUT) {
    const found = splits.filter((split) => names.includes(split.name) && split.count > 0n);
    if (found.length > 0)
      return { name: found[0]!.name, count: found.reduce((count, split) => count + split.count, 0n) };
  }
  return undefined;
}

/** `eval (1,204)` */
export function shown({ name, count }: Split): string {
  return `${name} (${Number(count).toLocaleString("en")})`;
}

/** What stands for the rows that are asked about when no split is named. `splits`: as far as they are known. */
export function heldOutWords(splits: readonly Split[] | undefined, isTrainedOn: boolean): string {
  const words = isTrainedOn ? "what training held out" : "its rows for evaluation";
  const found = splits && heldOut(splits);
  if (found) return `${words}: ${shown(found)}`;
  return isWhole(splits) ? "choose …" : words;
}

/** What is to be said before somebody asks for rows that are not there. */
export function lackOfRows(splits: readonly Split[] | undefined, split: string): string | undefined {
  if (split || !isWhole(splits) || heldOut(splits)) return undefined;
  return "No row of this dataset is of a split eval or test: choose another. The adapter may have been trained on those of train.";
}

function isWhole(splits: readonly Split[] | undefined): splits is readonly Split[] {
  return splits !== undefined && splits.length < MOST_SPLITS;
}
