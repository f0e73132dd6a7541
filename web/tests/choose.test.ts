import { expect, test } from "vitest";
import { fromDrop, fromInput } from "@/lib/upload/choose";

function inFolder(path: string): File {
  const file = new File(["x"], path.split("/").at(-1)!);
  Object.defineProperty(file, "webkitRelativePath", { value: path });
  return file;
}

test("files of a chosen folder have their paths below it, and hidden ones stay at home", () => {
  const found = fromInput(
    ["mine/annotations.csv", "mine/clips/a.mp4", "mine/.DS_Store", "mine/.git/config"].map(inFolder),
  );

  expect(found.map((one) => one.path)).toEqual(["annotations.csv", "clips/a.mp4"]);
});

test("single files have their names", () => {
  const file = Object.assign(new File(["x"], "a.mp4"), { webkitRelativePath: "" });

  expect(fromInput([file])).toEqual([{ file, path: "a.mp4" }]);
});

/** A dropped folder as browsers give it: a hundred entries at a time, and none at the end. */
function folder(name: string, entries: object[]) {
  return {
    name,
    isDirectory: true,
    createReader: () => {
      const left = [...entries];
      return { readEntries: (give: (some: object[]) => void) => give(left.splice(0, 100)) };
    },
  };
}

const file = (name: string) => ({
  name,
  isDirectory: false,
  file: (give: (file: File) => void) => give(new File(["x"], name)),
});
const dropped = (...entries: object[]) =>
  ({
    items: entries.map((entry) => ({ kind: "file", webkitGetAsEntry: () => entry, getAsFile: () => null })),
  }) as unknown as DataTransfer;

test("a dropped folder is walked to its end, and is itself no part of the paths", async () => {
  const clips = Array.from({ length: 250 }, (_, number) => file(`${number}.mp4`));
  const found = await fromDrop(
    dropped(folder("mine", [folder("clips", clips), file("annotations.csv"), file(".hidden")])),
  );

  expect(found).toHaveLength(251);
  expect(found.map((one) => one.path)).toContain("clips/249.mp4");
});

test("two dropped folders keep their names, so that their files do not meet", async () => {
  const found = await fromDrop(dropped(folder("a", [file("1.mp4")]), folder("b", [file("1.mp4")])));

  expect(found.map((one) => one.path)).toEqual(["a/1.mp4", "b/1.mp4"]);
});
