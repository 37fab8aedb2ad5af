import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";
import { addons } from "embedded:addons";
import { StartError } from "../core/errors.ts";

let loaded: object | undefined;

/**
 * better-sqlite3's native addon out of the bundle; `undefined` where none is inside, that is when running from the
 * sources, and better-sqlite3 finds its own.
 *
 * A shared library must be a file to be loaded. It is one for as long as that takes, in a new folder of its own that
 * nobody else can write: first where temporary files go and, where programs may not be loaded from there (`noexec`),
 * beside the store.
 */
export function loadAddon(dataFolder: string): object | undefined {
  if (loaded !== undefined || Object.keys(addons).length === 0) return loaded;
  const target = `${isMusl() ? "linuxmusl" : process.platform}-${process.arch}`;
  const compressed = addons[target];
  if (compressed === undefined) {
    throw new StartError(
      process.arch === "arm" || process.arch === "ia32"
        ? `this is a 32-bit system (${target}): lambdaiot needs a 64-bit one; on a Raspberry Pi 3 or later install the 64-bit Raspberry Pi OS`
        : `this build does not run on ${target}; it was built for ${Object.keys(addons).join(", ")}`,
    );
  }
  const bytes = brotliDecompressSync(compressed);
  const failures: string[] = [];
  for (const parent of [tmpdir(), dataFolder]) {
    try {
      loaded = loadFrom(parent, bytes);
      return loaded;
    } catch (error) {
      failures.push(`${parent}: ${(error as Error).message}`);
    }
  }
  throw new StartError(`cannot load the SQLite addon (${failures.join("; ")})`);
}

/** Alpine's C library takes other addons than everybody else's. */
function isMusl(): boolean {
  if (process.platform !== "linux") return false;
  const report = process.report as typeof process.report & { excludeNetwork: boolean };
  report.excludeNetwork = true; // it would look up the names of peers
  const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime === undefined;
}

function loadFrom(parent: string, bytes: Uint8Array): object {
  const folder = mkdtempSync(join(parent, "lambdaiot-"));
  try {
    const file = join(folder, "better_sqlite3.node");
    writeFileSync(file, bytes, { mode: 0o700 });
    const module: { exports: object } = { exports: {} };
    process.dlopen(module, file);
    return module.exports;
  } finally {
    // Linux and macOS keep a loaded library whose file is gone; Windows does not let it go and the folder stays.
    rmSync(folder, { recursive: true, force: true, maxRetries: process.platform === "win32" ? 0 : 2 });
  }
}
