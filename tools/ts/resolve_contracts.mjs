// Lets Node run gen/ts as it is: its imports end in `.js` (what a bundler wants) where the files end in `.ts`,
// and its packages are installed here, beside this file, not above gen/ts.
import { registerHooks } from "node:module";

const here = import.meta.url;

registerHooks({
  resolve(specifier, context, nextResolve) {
    if (!context.parentURL?.includes("/gen/ts/")) return nextResolve(specifier, context);
    if (specifier.startsWith(".")) return nextResolve(specifier.replace(/\.js$/, ".ts"), context);
    return nextResolve(specifier, { ...context, parentURL: here });
  },
});
