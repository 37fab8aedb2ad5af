import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { embed } from "./build.mjs";

export default defineConfig({
  plugins: [
    {
      // The bundle's `embedded:` modules, for tests that run on the sources.
      name: "embedded",
      resolveId: (id) => (id.startsWith("embedded:") ? `\0${id}` : undefined),
      load: (id) => (id.startsWith("\0embedded:") ? embed(id.slice(1)).contents : undefined),
    },
  ],
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: Math.min(2, availableParallelism()),
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
