// Builds dist/lambdaiot.mjs, one file with everything inside, and from the same sources a self-contained executable.
//
//   node build.mjs                                 the bundle
//   node build.mjs --executable linux-arm64        the bundle, and dist/lambdaiot-linux-arm64
//   node build.mjs --documents                     the bundle, and what it prints of itself: the OpenAPI documents into
//                                                  docs/, the metrics too, the table of keys into README.md
//   node build.mjs --watch                         build, run, and do both again on every change
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { brotliCompressSync, constants } from "node:zlib";

const root = dirname(fileURLToPath(import.meta.url));
const outfile = join(root, "dist/lambdaiot.mjs");
const cache = join(root, "node_modules/.cache/lambdaiot");
const builder = join(root, "node_modules/node/bin", process.platform === "win32" ? "node.exe" : "node");

/** The Linux machines that hobbyists run are all served by one file; the machine that builds is served besides. */
const bundledTargets = ["linux-x64", "linux-arm64"];

/** What can be built on any machine: macOS and Windows want their executables signed with tools of their own. */
const executableTargets = ["linux-x64", "linux-arm64"];

export const hostTarget = `${isMusl() ? "linuxmusl" : process.platform}-${process.arch}`;

/** The bundle is downloaded, copied over slow links and parsed at each start: growth is to be a decision. */
export const bundleCapBytes = 6_000_000;

/** A failure that its own line explains. */
class BuildError extends Error {}

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

/** musl systems (Alpine) carry another addon; its name in better-sqlite3 is `linuxmusl-x64`. */
function isMusl() {
  if (process.platform !== "linux") return false;
  process.report.excludeNetwork = true; // it would look up the names of peers
  return process.report.getReport().header.glibcVersionRuntime === undefined;
}

const compressedAddons = new Map();

/** The quality above 9 takes ten times as long for a tenth less. */
function compressAddon(target) {
  const known = compressedAddons.get(target);
  if (known !== undefined) return known;
  const addon = readFileSync(join(root, "node_modules/better-sqlite3/prebuilds", `${target}.node`));
  const compressed = brotliCompressSync(addon, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
  compressedAddons.set(target, compressed);
  return compressed;
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

/**
 * mqtt-packet asks `debug` several times a packet whether somebody wants to hear of it, a twentieth of what a reading takes.
 * In the bundle nobody does: the gateway has a log of its own.
 */
const quietPlugin = {
  name: "quiet",
  setup(build) {
    build.onResolve({ filter: /^debug$/ }, ({ path }) => ({ path, namespace: "quiet" }));
    build.onLoad({ filter: /.*/, namespace: "quiet" }, () => ({ contents: "module.exports = () => () => {};" }));
  },
};

export function bundleOptions(targets) {
  return {
    absWorkingDir: root,
    entryPoints: [join(root, "src/main.ts")],
    outfile,
    bundle: true,
    platform: "node",
    // Aedes recognises its persistence by the AsyncFunction constructor: nothing may lower `async` [aedes.js listen].
    target: "node24",
    format: "esm",
    // Names stay as they are written: traces and profiles are readable. `keepNames` beside minified ones would set the
    // name of every closure as it is made, which took an eighth of what the gateway does for a reading.
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: "none",
    logLevel: "warning",
    plugins: [embedPlugin(targets), quietPlugin],
    // CommonJS packages in an ES module still call `require` for Node's own modules.
    banner: {
      js: 'import { createRequire as nodeRequire } from "node:module"; const require = nodeRequire(import.meta.url);',
    },
  };
}

/** The bundle with the addons of `targets`, in memory. */
async function bundle(esbuild, targets) {
  const { outputFiles } = await esbuild.build({ ...bundleOptions(targets), write: false });
  return outputFiles[0].contents;
}

/** Writes aside and renames: a gateway that starts from `file` meanwhile reads the old one or the new one, whole. */
function replaceFile(file, contents) {
  const aside = `${file}.${process.pid}`;
  writeFileSync(aside, contents);
  renameSync(aside, file);
}

const describeFile = (file, bytes) => `${relative(root, file)}  ${(bytes / 1e6).toFixed(2)} MB`;

async function buildBundle(esbuild, say) {
  const contents = await bundle(esbuild, [...new Set([...bundledTargets, hostTarget])]);
  if (contents.length > bundleCapBytes) {
    throw new BuildError(
      `the bundle has grown to ${contents.length} bytes, more than the ${bundleCapBytes} that are allowed`,
    );
  }
  replaceFile(outfile, contents);
  say(describeFile(outfile, contents.length));
}

/** The bundle for one target inside a Node for that target: nothing of what it needs is outside. */
async function buildExecutable(esbuild, target, say) {
  if (!existsSync(builder)) throw new BuildError("Node is missing from node_modules; run npm ci");
  const { version } = JSON.parse(readFileSync(join(root, "node_modules/node/package.json"), "utf8"));
  const contents = await bundle(esbuild, [target]);
  const executable = join(root, `dist/lambdaiot-${target}`);
  const settings = {
    mainFormat: "module",
    // Both would be made by this machine's processor for this machine's processor.
    useCodeCache: false,
    useSnapshot: false,
    disableExperimentalSEAWarning: true,
  };
  const stamp = join(cache, `${target}.stamp`);
  const digest = createHash("sha256")
    .update(`${version} ${JSON.stringify(settings)} `)
    .update(contents)
    .digest("hex");
  if (!isCurrent(executable, stamp, digest)) {
    const base = fetchBase(target, version, say);
    const folder = mkdtempSync(join(cache, "executable-"));
    try {
      const [main, output, config] = ["main.mjs", "output", "config.json"].map((name) => join(folder, name));
      writeFileSync(main, contents);
      writeFileSync(config, JSON.stringify({ main, executable: base, output, ...settings }));
      const { failure } = runQuietly(builder, ["--build-sea", config]);
      if (failure !== undefined) throw new BuildError(`cannot make the executable for ${target}: ${failure}`);
      chmodSync(output, 0o755);
      renameSync(output, executable);
      writeFileSync(stamp, digest);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
  say(describeFile(executable, statSync(executable).size));
}

const isCurrent = (executable, stamp, digest) =>
  existsSync(executable) &&
  existsSync(stamp) &&
  readFileSync(stamp, "utf8") === digest &&
  statSync(executable).mtimeMs <= statSync(stamp).mtimeMs;

/**
 * Node for `target`: this project's own where that is what it is, otherwise the npm package of the same version (the
 * one that builds and the one that is built upon must be equal), kept for the next time. npm checks what it fetches.
 */
function fetchBase(target, version, say) {
  if (target === hostTarget) return builder;
  const base = join(cache, `node-${target}-${version}`);
  if (existsSync(base)) return base;
  const name = `node-${target}@${version}`;
  say(`fetching ${name}`);
  const folder = mkdtempSync(join(cache, "base-"));
  try {
    const packed = runQuietly("npm", ["pack", name, "--ignore-scripts", "--pack-destination", folder]);
    if (packed.failure !== undefined) {
      throw new BuildError(
        `cannot fetch the npm package ${name}, on which the executable for ${target} is built: ${packed.failure}`,
      );
    }
    const archive = readdirSync(folder).find((file) => file.endsWith(".tgz")) ?? "";
    const unpacked = runQuietly("tar", ["-xzf", join(folder, archive), "-C", folder, "package/bin/node"]);
    if (unpacked.failure !== undefined) throw new BuildError(`cannot unpack ${name}: ${unpacked.failure}`);
    renameSync(join(folder, "package/bin/node"), base);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return base;
}

/** Runs a program without showing what it says; `failure` tells in one line why it did not do its work. */
function runQuietly(file, args) {
  const { error, status, signal, stdout, stderr } = spawnSync(file, args, {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
    shell: process.platform === "win32" && file === "npm", // there it is a script
  });
  if (error === undefined && status === 0) return { stdout, failure: undefined };
  const lines = (stderr ?? "").split("\n").map((line) => line.replace(/^npm (error|ERR!) ?/, "").trim());
  const said = lines.filter(
    (line) => line !== "" && !/^npm warn|^(code|syscall|errno|type) |^A complete log/i.test(line),
  );
  const ended = `it ended with ${status ?? signal}`;
  return { stdout, failure: error?.message ?? said[0] ?? ended };
}

/** The documents as the gateway serves them: `/openapi.json` is docs/openapi.json, `/v1/openapi.json` docs/openapi-v1.json. */
function writeDocuments(say) {
  const { stdout, failure } = runQuietly(process.execPath, [outfile, "api-documents"]);
  if (failure !== undefined) throw new BuildError(`cannot render the API documents: ${failure}`);
  for (const [path, document] of Object.entries(JSON.parse(stdout))) {
    const prefix = dirname(path).replaceAll("/", "");
    const file = join(root, "docs", prefix === "" ? "openapi.json" : `openapi-${prefix}.json`);
    replaceFile(file, `${JSON.stringify(document, undefined, 2)}\n`);
    say(relative(root, file));
  }
  writeConfigTable(say);
  writeMetricsPage(say);
}

/** The README's table of the configuration's keys, between its two markers. */
function writeConfigTable(say) {
  const { stdout, failure } = runQuietly(process.execPath, [outfile, "config-table"]);
  if (failure !== undefined) throw new BuildError(`cannot print the configuration's keys: ${failure}`);
  const file = join(root, "README.md");
  const [before, rest] = readFileSync(file, "utf8").split("<!-- prettier-ignore-start -->\n");
  const [, after] = (rest ?? "").split("<!-- prettier-ignore-end -->\n");
  if (after === undefined) throw new BuildError("README.md has no place for the configuration's keys");
  replaceFile(file, `${before}<!-- prettier-ignore-start -->\n\n${stdout}\n<!-- prettier-ignore-end -->\n${after}`);
  say(relative(root, file));
}

/** What `GET /metrics` says, with what each of it means. */
function writeMetricsPage(say) {
  const { stdout, failure } = runQuietly(process.execPath, [outfile, "metrics-page"]);
  if (failure !== undefined) throw new BuildError(`cannot print the metrics: ${failure}`);
  const file = join(root, "docs/metrics.md");
  replaceFile(file, stdout);
  say(relative(root, file));
}

async function watch(esbuild) {
  let running;
  const restart = {
    name: "restart",
    setup(build) {
      build.onEnd(async ({ errors }) => {
        if (errors.length > 0) return;
        if (running !== undefined && running.exitCode === null && running.signalCode === null) {
          running.kill("SIGTERM");
          await once(running, "exit"); // it holds the ports and the store until then
        }
        running = spawn(process.execPath, [outfile], { stdio: "inherit" });
      });
    },
  };
  const options = bundleOptions([hostTarget]);
  const context = await esbuild.context({ ...options, plugins: [...options.plugins, restart] });
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => {
      running?.kill("SIGTERM");
      void context.dispose();
    });
  }
  await context.watch();
}

function readArguments() {
  try {
    const { values } = parseArgs({
      options: {
        executable: { type: "string", multiple: true, default: [] },
        documents: { type: "boolean", default: false },
        quiet: { type: "boolean", default: false },
        watch: { type: "boolean", default: false },
      },
    });
    const unknown = values.executable.find((target) => !executableTargets.includes(target));
    if (unknown === undefined) return values;
    throw new Error(
      `no executable can be built for ${unknown}, only for ${executableTargets.join(" and ")}; elsewhere run dist/lambdaiot.mjs with Node 24 or newer`,
    );
  } catch (error) {
    throw new BuildError(error.message);
  }
}

async function main() {
  const values = readArguments();
  const esbuild = await import("esbuild");
  for (const folder of [dirname(outfile), cache]) mkdirSync(folder, { recursive: true });
  if (values.watch) return watch(esbuild);
  const say = values.quiet ? () => {} : console.log;
  await buildBundle(esbuild, say);
  for (const target of values.executable) await buildExecutable(esbuild, target, say);
  if (values.documents) writeDocuments(say);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main();
  } catch (error) {
    process.exitCode = 1;
    // esbuild has already shown what it found wrong in the sources.
    if (error instanceof BuildError) console.error(`build: ${error.message}`);
    else if (!Array.isArray(error.errors)) throw error;
  }
}
