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

const system = { kind: "system" } as const;

export interface AlertOptions {
  domain: Domain;
  bus: Bus;
  log: Log;
  now: () => number;
}

/** Holds what comes, and what does not come, against the alert rules. */
export function startAlerts({ domain, bus, log, now }: AlertOptions): Job {
  const startedAt = now();
  let gathering: NodeJS.Timeout | undefined;

  const job = startPeriodic({
    name: "alerts",
    log,
    intervalMs,
    async run(isStopping) {
      if (!domain.read(system, hasEnabledRules)) return;
      while (
        !isStopping() &&
        (await domain.commit(system, (ctx) => evaluateReadings(ctx, readingsPerStep))) === readingsPerStep
      );
      await domain.commit(system, (ctx) => evaluateTime(ctx, startedAt));
    },
  });
  const unsubscribe = bus.on("reading.stored", () => {
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
