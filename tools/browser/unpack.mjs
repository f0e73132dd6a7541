// Unpacks the Chromium of the registry into a folder of this package, once, and prints what to start and with which environment.
//
// It brings the libraries that a machine without a desktop lacks; they are used only by it.
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "node_modules", ".chromium-unpacked");
const libraries = join("al2023", "lib");

// Whole or not at all: who is stopped while unpacking leaves nothing that a later call takes for a browser.
async function unpack() {
  const fresh = join(import.meta.dirname, "node_modules", `.chromium.new-${process.pid}`);
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh);
  // The package unpacks into the temporary folder, and its libraries only where it believes itself in a cloud function.
  process.env.TMPDIR = fresh;
  process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
  const { default: chromium } = await import("@sparticuz/chromium");
  await chromium.executablePath();
  for (const name of ["chromium", libraries])
    if (!existsSync(join(fresh, name)))
      throw new Error(`${join(fresh, name)} is missing: this version of @sparticuz/chromium keeps it elsewhere`);
  try {
    renameSync(fresh, folder);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!existsSync(folder)) throw error; // else another call was faster
  }
}

if (!existsSync(folder)) await unpack();
process.stdout.write(
  JSON.stringify({
    executable: join(folder, "chromium"),
    environment: { LD_LIBRARY_PATH: join(folder, libraries), FONTCONFIG_PATH: join(folder, "fonts") },
  }),
);
