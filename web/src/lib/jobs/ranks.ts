// `rank_allocation.json` of an adapter whose ranks differ by layer.

export interface RankReport {
  /** Parameters that the adapter may have. */
  budget_parameters: number;
  /** Parameters that it has. */
  spent_parameters: number;
  /** Each part's share of them: 0 to 1. */
  shares: Record<string, number>;
  layers: RankedLayer[];
}

export interface RankedLayer {
  /** The module's full name. */
  name: string;
  /** `vision`, `projector` or `language`. */
  group: string;
  rank: number;
  parameters_per_rank: number;
  /** What was cut away, as a share of the update's norm. */
  truncation_error: number;
  /** Of each component: how much the loss would miss it. */
  scores: number[];
}

/** Layers that stand one above the other in the model, with the same modules in each. */
export interface RankGrid {
  /** What their names begin with. */
  name: string;
  group: string;
  modules: string[];
  /** Ranks by module; nothing where there is no such module. */
  blocks: { name: string; ranks: (number | undefined)[] }[];
}

/** `model.layers.3.mlp.up_proj` is the module `mlp.up_proj` of the block `3` of `model.layers`. */
function placeOf(name: string): { grid: string; block: string; module: string } {
  const numbered = /^(.+?)\.(\d+)\.(.+)$/.exec(name);
  if (numbered) return { grid: numbered[1]!, block: numbered[2]!, module: numbered[3]! };
  const dot = name.lastIndexOf(".");
  return { grid: name.slice(0, Math.max(dot, 0)), block: "", module: name.slice(dot + 1) };
}

const FROM_INPUT_TO_OUTPUT = ["vision", "projector", "language"];

export function gridsOf(layers: readonly RankedLayer[]): RankGrid[] {
  const found = new Map<string, { group: string; modules: Set<string>; blocks: Map<string, Map<string, number>> }>();
  for (const { name, group, rank } of layers) {
    const place = placeOf(name);
    const grid = found.get(place.grid) ?? { group, modules: new Set<string>(), blocks: new Map() };
    found.set(place.grid, grid);
    grid.modules.add(place.module);
    grid.blocks.set(place.block, (grid.blocks.get(place.block) ?? new Map<string, number>()).set(place.module, rank));
  }
  return [...found]
    .map(([name, { group, modules, blocks }]) => ({
      name,
      group,
      modules: [...modules],
      blocks: [...blocks]
        .sort(([one], [other]) => Number(one) - Number(other))
        .map(([block, ranks]) => ({ name: block, ranks: [...modules].map((module) => ranks.get(module)) })),
    }))
    .sort((one, other) => orderOf(one.group) - orderOf(other.group));
}

export function orderOf(group: string): number {
  const order = FROM_INPUT_TO_OUTPUT.indexOf(group);
  return order < 0 ? FROM_INPUT_TO_OUTPUT.length : order;
}

/** What a layer is worth: how much the loss would miss all of its components. */
export function worthOf(layer: RankedLayer): number {
  return layer.scores.reduce((sum, score) => sum + score, 0);
}
