// Puts the built site where `reeltune up` finds it: each file compressed, and `site.json`, which says how to serve it.
//
// site.json: {"pages": [{"path", "file", "content_type", "cache_control", "is_compressed", "script_hashes"}]}, paths as browsers ask for them.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { extname, join, relative } from "node:path";
import { constants, gzipSync } from "node:zlib";

const root = join(import.meta.dirname, "..");
const built = join(root, "out");
const target = join(root, "..", "reeltune_cli", "web_ui");
const fresh = `${target}.new`;

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".ico": "image/x-icon",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".txt": "text/plain; charset=utf-8",
  ".woff2": "font/woff2",
};
// Scripts of one page, compressed. What is fetched for a click alone, such as the charts, does not count.
const MOST_SCRIPT_BYTES = 300 * 1024;
// A hash in the name: the content never changes.
const FOR_EVER = "public, max-age=31536000, immutable";
const ALWAYS_ASK = "no-cache";

rmSync(fresh, { recursive: true, force: true });
mkdirSync(fresh, { recursive: true });
// The bundler leaves source maps and the sources of workers beside what runs; nobody asks for them.
const isServed = (entry) => entry.isFile() && ![".map", ".ts"].includes(extname(entry.name));
const files = readdirSync(built, { recursive: true, withFileTypes: true }).filter(isServed);
const pages = files
  .map((entry) => relative(built, join(entry.parentPath, entry.name)).split("\\").join("/"))
  .sort()
  .map((name, number) => pack(name, number));
checkScriptBytes();
writeFileSync(join(fresh, "site.json"), `${JSON.stringify({ pages }, null, 1)}\n`);
rmSync(target, { recursive: true, force: true });
renameSync(fresh, target);
const bytes = pages.reduce((sum, page) => sum + page.size_bytes, 0);
process.stdout.write(`packed ${pages.length} files, ${(bytes / 1024).toFixed(0)} KiB, into reeltune_cli/web_ui\n`);

function checkScriptBytes() {
  const sizes = new Map(pages.map((page) => [page.path, page.size_bytes]));
  for (const name of files.map((entry) => join(entry.parentPath, entry.name)).filter((one) => one.endsWith(".html"))) {
    const scripts = new Set(
      [...readFileSync(name, "utf8").matchAll(/<script\b[^>]*\ssrc="([^"?]+)/g)].map(([, source]) => source),
    );
    const bytes = [...scripts].reduce((sum, source) => sum + (sizes.get(source) ?? 0), 0);
    if (bytes > MOST_SCRIPT_BYTES)
      throw new Error(`${name} loads ${bytes} bytes of scripts; a page may load ${MOST_SCRIPT_BYTES}`);
    if (process.env.TELL_SIZES)
      process.stdout.write(`${(bytes / 1024).toFixed(0)} KiB of scripts: ${relative(built, name)}\n`);
  }
}

function pack(name, number) {
  const ending = extname(name);
  const contentType = TYPES[ending];
  if (!contentType) throw new Error(`${name}: say in scripts/pack.mjs what type ${ending} is`);
  const content = readFileSync(join(built, name));
  const isCompressed = ending !== ".woff2";
  const packed = isCompressed ? gzipSync(content, { level: constants.Z_BEST_COMPRESSION }) : content;
  const file = `${number}${ending}${isCompressed ? ".gz" : ""}`;
  writeFileSync(join(fresh, file), packed);
  return {
    path: `/app/${name.replace(/(^|\/)index\.html$/, "$1").replace(/\.html$/, "")}`.replace(/(.)\/$/, "$1"),
    file,
    content_type: contentType,
    cache_control: name.startsWith("_next/static/") ? FOR_EVER : ALWAYS_ASK,
    is_compressed: isCompressed,
    size_bytes: packed.length,
    script_hashes: ending === ".html" ? inlineScriptHashes(content.toString("utf8"), name) : [],
  };
}

// The content security policy names each inline script by its digest, so that no other one runs.
function inlineScriptHashes(html, name) {
  if (/<[^>]+\son[a-z]+=/i.test(html.replace(/<script\b[^>]*>[\s\S]*?<\/script>/gi, ""))) {
    throw new Error(`${name}: an inline event handler would not run under the content security policy`);
  }
  const scripts = [...html.matchAll(/<script\b([^>]*)>([\s\S]*?)<\/script>/gi)].filter(
    ([, attributes]) => !/\ssrc=/.test(attributes),
  );
  const digests = scripts.map(([, , text]) => `sha256-${createHash("sha256").update(text, "utf8").digest("base64")}`);
  return [...new Set(digests)];
}
