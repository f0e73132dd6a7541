// Unpacks the Chromium of the registry into a folder of this package, once, and prints what to start and with which environment.
//
// It brings the libraries that a machine without a desktop lacks; they are used only by it.
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";

const folder = join(import.meta.dirname, "node_modules", ".chromium");
mkdirSync(folder, { recursive: true });
// The package unpacks into the temporary folder, and its libraries only where it believes itself in a cloud function.
process.env.TMPDIR = folder;
process.env.AWS_EXECUTION_ENV = "AWS_Lambda_nodejs22.x";
const { default: chromium } = await import("@sparticuz/chromium");
const executable = await chromium.executablePath();
const libraries = join(folder, "al2023", "lib");
if (!existsSync(libraries)) throw new Error(`${libraries} is missing: another version of @sparticuz/chromium keeps its libraries elsewhere`);
process.stdout.write(JSON.stringify({ executable, environment: { LD_LIBRARY_PATH: libraries, FONTCONFIG_PATH: join(folder, "fonts") } }));
