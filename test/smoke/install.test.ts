import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

// What `npm ci` does on a machine that has neither Python nor a compiler.

const root = new URL("../..", import.meta.url).pathname;

interface LockedPackage {
  gypfile?: boolean;
}

/**
 * npm 10, which comes with Node 20 and 22, compiles each package that has a binding.gyp, unless its entry in the lock
 * file says `"gypfile": false`: better-sqlite3 says so of itself, and npm drops that from the lock file whenever it
 * writes it anew. Where this fails, put the line back into the package's entry in package-lock.json.
 */
test("the lock file keeps npm from compiling what comes compiled", () => {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
    packages: Record<string, LockedPackage>;
  };
  const compiled = Object.entries(packages).filter(([path]) => existsSync(join(root, path, "binding.gyp")));
  expect(compiled.map(([path]) => path)).toContain("node_modules/better-sqlite3");
  expect(compiled.filter(([, { gypfile }]) => gypfile !== false).map(([path]) => path)).toEqual([]);
});
