import assert from "node:assert";
import { createRequire } from "node:module";
import { describe, test } from "vitest";
import { createPersistence } from "../../src/mqtt/persistence.ts";
import { openTestStore } from "../support/store.ts";

// aedes-persistence's own suite, which every persistence of Aedes is to pass, on ours over a real store. It is written
// for node:test; what it uses of its context is little.

interface SuiteContext {
  assert: typeof assert;
  plan(): void;
  diagnostic(): void;
}

const suite = createRequire(import.meta.url)("aedes-persistence/abstract.js") as (options: {
  test: (name: string, run: (t: SuiteContext) => Promise<void>) => void;
  persistence: () => unknown;
  testAsync: boolean;
}) => void;

describe("aedes-persistence's own suite", () => {
  suite({
    // The names are the suite's own, and so are the assertions.
    // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect
    test: (name, run) => test(name, () => run({ assert, plan: () => undefined, diagnostic: () => undefined })),
    persistence() {
      const t = openTestStore();
      const persistence = createPersistence({
        domain: t.domain,
        log: t.log,
        counters: t.counters,
        now: () => t.clock.at,
        maxQueued: 100_000,
        maxQueuedBytes: 2 ** 30,
        maxSessions: 1_000,
        maxUnreleased: 1_000,
        maxUnreleasedTotal: 1_000,
        maxRetained: 1_000,
        maxRetainedBytes: 2 ** 30,
        sessionExpiryMs: 1_000,
      });
      return Object.assign(persistence, {
        async destroy() {
          await persistence.settled();
          await t.close();
        },
      });
    },
    testAsync: true,
  });
});
