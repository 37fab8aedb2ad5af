import type { Domain } from "../core/ctx.ts";
import type { Bus } from "../core/events.ts";
import { isRollUpDue, rollUp } from "../core/rounds.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

export interface RollupOptions {
  domain: Domain;
  bus: Bus;
  log: Log;
  everyMs?: number;
}

/** An hour that is over is told of so soon. */
const intervalMs = 1_000;

const system = { kind: "system" } as const;

/**
 * Keeps the sums by hour and day, when it is worth it and by the hour at the latest, and tells when an hour or a day is
 * complete. What comes between is left to the next time, after a restart too: answers add it.
 */
export function startRollup({ domain, bus, log, everyMs = intervalMs }: RollupOptions): Job {
  /** Somebody waits for everything up to this reading. */
  let wantedUpTo = 0;

  const job = startPeriodic({
    name: "rollups",
    log,
    intervalMs: everyMs,
    async run(isStopping) {
      while (!isStopping() && domain.read(system, (ctx) => isRollUpDue(ctx, wantedUpTo)))
        await domain.commit(system, rollUp);
    },
  });
  // What is too old now goes once it is in the sums.
  const unsubscribe = bus.on("retention.changed", () => {
    wantedUpTo = domain.read(system, ({ readings }) => readings.lastId());
    job.wake();
  });
  job.wake();

  return {
    async stop() {
      unsubscribe();
      await job.stop();
    },
  };
}
