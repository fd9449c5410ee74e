// Builds the five files that edge-proxy embeds. The same sources give the same bytes.
//
//   node build.mjs [FOLDER]     dist unless another one is given

import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { atlas } from "./atlas.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "dist");

/** The map is made here, so that the page carries numbers and no library. */
const world = {
  name: "world",
  setup(builder) {
    builder.onResolve({ filter: /^world$/ }, () => ({ path: "world", namespace: "world" }));
    builder.onLoad({ filter: /.*/, namespace: "world" }, () => ({
      contents: JSON.stringify(atlas()),
      loader: "json",
    }));
  },
};

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  target: ["es2022", "chrome109", "firefox115", "safari16"],
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
};

await mkdir(join(out, "assets"), { recursive: true });
await build({
  ...common,
  entryPoints: { app: "src/app.ts", docs: "src/docs.ts" },
  format: "iife",
  outdir: join(out, "assets"),
  plugins: [world],
});
await build({ ...common, entryPoints: { app: "src/app.css" }, outdir: join(out, "assets") });
for (const page of ["index.html", "docs.html"]) {
  await copyFile(join(here, "src", page), join(out, page));
}
