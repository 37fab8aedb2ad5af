import type { Job } from "../../src/jobs/periodic.ts";
import { startRetention, type RetentionOptions } from "../../src/jobs/retention.ts";
import type { TestStore } from "./store.ts";

/** The job over a test's store, by the policy that is the default. */
export const startTestRetention = (t: TestStore, options: Partial<RetentionOptions> = {}): Job =>
  startRetention({
    domain: t.domain,
    bus: t.bus,
    log: t.log,
    counters: t.counters,
    now: () => t.clock.at,
    policy: { rawDays: 90, rollupDays: 3_650 },
    maxBytes: 0,
    hasRoom: () => true,
    everyMs: 20,
    ...options,
  });
