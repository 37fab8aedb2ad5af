import type { Domain } from "../core/ctx.ts";
import { sealStep } from "../core/readings.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

/** So many readings take about a millisecond; then everybody else has a turn. */
const readingsPerStep = 4_096;
/** A gateway under full load takes in fewer than wait in memory anyway. */
const intervalMs = 500;

const system = { kind: "system" } as const;

/** Moves readings from memory and its log into compressed blocks, the older half whenever there are enough. */
export const startSeal = ({ domain, log, everyMs = intervalMs }: { domain: Domain; log: Log; everyMs?: number }): Job =>
  startPeriodic({
    name: "sealing",
    log,
    intervalMs: everyMs,
    async run(isStopping) {
      if (!domain.read(system, ({ readings }) => readings.isSealingDue())) return;
      while (!isStopping() && (await domain.commit(system, (ctx) => sealStep(ctx, readingsPerStep))));
    },
  });
