// Builds dist/lambdaiot.mjs, one file with everything inside, and from it a self-contained executable for a target.
//
//   node build.mjs                                 the bundle
//   node build.mjs --executable linux-arm64        the bundle, and dist/lambdaiot-linux-arm64
//   node build.mjs --watch                         build, run, and do both again on every change
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { brotliCompressSync, constants } from "node:zlib";

const root = dirname(fileURLToPath(import.meta.url));
const outfile = join(root, "dist/lambdaiot.mjs");

/** The Linux machines that hobbyists run are all served by one file; the machine that builds is served besides. */
const bundledTargets = ["linux-x64", "linux-arm64"];

const contentTypes = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".svg": "image/svg+xml",
};

function listFiles(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .toSorted();
}

function readMigrations() {
  const journal = JSON.parse(readFileSync(join(root, "drizzle/meta/_journal.json"), "utf8"));
  return journal.entries.map(({ tag }) => ({
    name: tag,
    statements: readFileSync(join(root, "drizzle", `${tag}.sql`), "utf8")
      .split("--> statement-breakpoint")
      .map((statement) => statement.trim()),
  }));
}

/** musl systems carry another addon; its name in better-sqlite3 is `linuxmusl-x64`. */
function compressAddon(target) {
  const addon = readFileSync(join(root, "node_modules/better-sqlite3/prebuilds", `${target}.node`));
  return brotliCompressSync(addon, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
}

/**
 * The source text of an `embedded:` module, the files it came from, and binary exports.
 * Shared with vitest.config.ts, where tests run on the sources and `targets` is empty.
 */
export function embed(id, targets = []) {
  switch (id) {
    case "embedded:package": {
      const file = join(root, "package.json");
      const { version } = JSON.parse(readFileSync(file, "utf8"));
      return { contents: `export const version = ${JSON.stringify(version)};`, watchFiles: [file] };
    }
    case "embedded:migrations":
      return {
        contents: `export const migrations = ${JSON.stringify(readMigrations())};`,
        watchFiles: listFiles(join(root, "drizzle")),
      };
    case "embedded:web": {
      const web = join(root, "src/web");
      const sources = listFiles(web);
      const files = Object.fromEntries(
        sources.map((file) => [
          relative(web, file).replaceAll("\\", "/"),
          { type: contentTypes[extname(file)], body: readFileSync(file, "utf8") },
        ]),
      );
      return { contents: `export const files = ${JSON.stringify(files)};`, watchFiles: sources };
    }
    case "embedded:addons": {
      const entries = targets.map(
        (target) => `${JSON.stringify(target)}: Buffer.from("${compressAddon(target).toString("base64")}", "base64")`,
      );
      return { contents: `export const addons = {${entries.join(",")}};`, watchFiles: [] };
    }
    default:
      throw new Error(`no such embedded module: ${id}`);
  }
}

/** esbuild's side of {@link embed}. */
const embedPlugin = (targets) => ({
  name: "embedded",
  setup(build) {
    build.onResolve({ filter: /^embedded:/ }, ({ path }) => ({ path, namespace: "embedded" }));
    build.onLoad({ filter: /.*/, namespace: "embedded" }, ({ path }) => embed(path, targets));
  },
});

async function bundleOptions({ targets, outfile, format }) {
  return {
    entryPoints: [join(root, "src/main.ts")],
    outfile,
    bundle: true,
    platform: "node",
    // Aedes recognises its persistence by the AsyncFunction constructor: nothing may lower `async` [aedes.js listen].
    target: "node24",
    format,
    minify: true,
    keepNames: true,
    legalComments: "none",
    logLevel: "warning",
    plugins: [embedPlugin(targets)],
    // CommonJS packages in an ES module still call `require` for Node's own modules.
    banner:
      format === "esm"
        ? {
            js: 'import { createRequire as nodeRequire } from "node:module"; const require = nodeRequire(import.meta.url);',
          }
        : {},
  };
}

async function main() {
  const { values } = parseArgs({
    options: {
      executable: { type: "string" },
      quiet: { type: "boolean", default: false },
      watch: { type: "boolean", default: false },
    },
  });
  const esbuild = await import("esbuild");
  mkdirSync(dirname(outfile), { recursive: true });
  const targets = [...new Set([...bundledTargets, `${process.platform}-${process.arch}`])];
  const options = await bundleOptions({ targets, outfile, format: "esm" });

  if (values.watch) {
    let running;
    const restart = {
      name: "restart",
      setup(build) {
        build.onEnd(({ errors }) => {
          if (errors.length > 0) return;
          running?.kill("SIGTERM");
          running = spawn(process.execPath, [outfile], { stdio: "inherit" });
        });
      },
    };
    const context = await esbuild.context({ ...options, plugins: [...options.plugins, restart] });
    await context.watch();
    return;
  }

  const result = await esbuild.build({ ...options, metafile: true });
  const bytes = Object.values(result.metafile.outputs)[0].bytes;
  if (!values.quiet) console.log(`dist/lambdaiot.mjs  ${(bytes / 1e6).toFixed(2)} MB`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
