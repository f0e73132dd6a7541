// Copies the generated contracts into the source tree, where the bundler finds their imports.
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const from = join(import.meta.dirname, "..", "..", "gen", "ts");
const to = join(import.meta.dirname, "..", "src", "gen");

rmSync(to, { recursive: true, force: true });
cpSync(from, to, { recursive: true });
for (const entry of readdirSync(to, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue;
  const file = join(entry.parentPath, entry.name);
  // Node wants the endings that the generator writes; the bundler reads the TypeScript files themselves.
  writeFileSync(file, readFileSync(file, "utf8").replace(/(from "\.[^"]*)\.js"/g, '$1"'));
}
