import { evaluateReadings, evaluateTime, hasEnabledRules } from "../core/alerts.ts";
import type { Domain } from "../core/ctx.ts";
import type { Bus } from "../core/events.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

const readingsPerStep = 2_000;
/** `for`, `cooldown` and `no_data` are looked at so often. */
const intervalMs = 1_000;
/** Readings that come together are looked at together. */
const gatherMs = 50;

/** A clock that has come so far since the last look was set, or the machine was asleep. */
const leapMs = 60_000;

const system = { kind: "system" } as const;

export interface AlertOptions {
  domain: Domain;
  bus: Bus;
  log: Log;
  now: () => number;
}

/** Holds what comes, and what does not come, against the alert rules. */
export function startAlerts({ domain, bus, log, now }: AlertOptions): Job {
  /** Since when what is sent can be heard. */
  let startedAt = now();
  let lookedAt = startedAt;
  let gathering: NodeJS.Timeout | undefined;

  const job = startPeriodic({
    name: "alerts",
    log,
    intervalMs,
    async run(isStopping) {
      // A machine without a clock of its own learns the time a while after its start: that is no silence of hours.
      if (Math.abs(now() - lookedAt) > leapMs) startedAt = now();
      lookedAt = now();
      if (!domain.read(system, hasEnabledRules)) return;
      while (
        !isStopping() &&
        (await domain.commit(system, (ctx) => evaluateReadings(ctx, readingsPerStep))) === readingsPerStep
      );
      await domain.commit(system, (ctx) => evaluateTime(ctx, startedAt));
    },
  });
  const unsubscribe = bus.on("readings.stored", () => {
    gathering ??= setTimeout(() => {
      gathering = undefined;
      job.wake();
    }, gatherMs);
  });

  return {
    async stop() {
      unsubscribe();
      clearTimeout(gathering);
      await job.stop();
    },
  };
}
