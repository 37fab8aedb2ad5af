import { setTimeout as sleep } from "node:timers/promises";
import type { Domain } from "../core/ctx.ts";
import type { Bus } from "../core/events.ts";
import { purgeStep } from "../core/purges.ts";
import type { Log } from "../log.ts";
import type { Job } from "./periodic.ts";

export interface PurgeOptions {
  domain: Domain;
  bus: Bus;
  log: Log;
}

/** So many rows take a few milliseconds; then everybody else has a turn. */
const rowsPerStep = 500;
const pauseMs = 5;
/** After a failed step, a full disk for instance. */
const retryMs = 30_000;

const system = { kind: "system" } as const;

/** Removes the readings of deleted sensors in the background, a few at a time, and goes on after a restart where it was. */
export function startPurge({ domain, bus, log }: PurgeOptions): Job {
  const stopping = new AbortController();
  let running: Promise<void> | undefined;
  /** Something was deleted since the last step began: in the very commit, maybe, in which that step found nothing. */
  let isWanted = false;

  async function purge(): Promise<void> {
    while (!stopping.signal.aborted) {
      let pause = pauseMs;
      isWanted = false;
      try {
        if (!(await domain.commit(system, (ctx) => purgeStep(ctx, rowsPerStep)))) return;
      } catch (error) {
        log.sampled("purge", "removing the readings of deleted sensors failed; trying again later", { error });
        pause = retryMs;
      }
      await sleep(pause, undefined, { signal: stopping.signal }).catch(() => undefined); // aborted: the loop ends
    }
  }

  const wake = (): void => {
    isWanted = true;
    running ??= purge().finally(() => {
      running = undefined;
      if (isWanted && !stopping.signal.aborted) wake();
    });
  };
  const unsubscribe = bus.on("sensors.removed", wake);
  wake();

  return {
    async stop() {
      unsubscribe();
      stopping.abort();
      await running;
    },
  };
}
