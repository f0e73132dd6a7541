import { expect, test } from "vitest";
import { gridsOf, type RankedLayer, worthOf } from "@/lib/jobs/ranks";

const layer = (name: string, group: string, rank: number): RankedLayer => ({
  name,
  group,
  rank,
  parameters_per_rank: 512,
  truncation_error: 0.1,
  scores: [0.5, 0.25],
});

test("layers stand by block and module, parts in the order in which a clip passes them", () => {
  const grids = gridsOf([
    layer("model.layers.10.mlp.up_proj", "language", 3),
    layer("model.layers.2.mlp.up_proj", "language", 4),
    layer("model.layers.2.attn.q_proj", "language", 0),
    layer("model.visual.merger.fc1", "projector", 2),
    layer("model.visual.blocks.0.qkv", "vision", 9),
  ]);

  expect(grids).toEqual([
    { name: "model.visual.blocks", group: "vision", modules: ["qkv"], blocks: [{ name: "0", ranks: [9] }] },
    { name: "model.visual.merger", group: "projector", modules: ["fc1"], blocks: [{ name: "", ranks: [2] }] },
    {
      name: "model.layers",
      group: "language",
      modules: ["mlp.up_proj", "attn.q_proj"],
      blocks: [
        { name: "2", ranks: [4, 0] },
        { name: "10", ranks: [3, undefined] },
      ],
    },
  ]);
});

test("a layer outside every block, and one of another model's naming, have a place", () => {
  expect(gridsOf([layer("head", "audio", 1)])).toEqual([
    { name: "", group: "audio", modules: ["head"], blocks: [{ name: "", ranks: [1] }] },
  ]);
});

test("a layer is worth all of its components", () => {
  expect(worthOf(layer("a", "vision", 1))).toBe(0.75);
});
