import type { Domain } from "../core/ctx.ts";
import { arePeriodsComplete, completePeriods, isRolledUp, rollUpStep } from "../core/rollups.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

/** So many readings take a few milliseconds; then everybody else has a turn. */
const readingsPerStep = 2_000;
/** Nobody waits for it: answers add what is not summed up yet. So it comes seldom, and writes little. */
const intervalMs = 5_000;

const system = { kind: "system" } as const;

/** Keeps the sums by hour and day, and tells when an hour or a day is complete. What the last run has left comes first. */
export function startRollup({
  domain,
  log,
  everyMs = intervalMs,
}: {
  domain: Domain;
  log: Log;
  everyMs?: number;
}): Job {
  const job = startPeriodic({
    name: "rollups",
    log,
    intervalMs: everyMs,
    async run(isStopping) {
      while (!isStopping()) {
        if (domain.read(system, isRolledUp)) break;
        if ((await domain.commit(system, (ctx) => rollUpStep(ctx, readingsPerStep))) < readingsPerStep) break;
      }
      if (!domain.read(system, arePeriodsComplete)) await domain.commit(system, completePeriods);
    },
  });
  job.wake();
  return job;
}
