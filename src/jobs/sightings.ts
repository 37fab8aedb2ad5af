import type { Domain } from "../core/ctx.ts";
import { areSightingsUnsaved, saveSightings } from "../core/sightings.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";

/** A gateway that is killed forgets as much of when its devices were last seen, and nothing else. */
const intervalMs = 60_000;
/** So many take a millisecond or two; then everybody else has a turn. */
const devicesPerStep = 500;

const system = { kind: "system" } as const;

/** Saves from time to time when devices were last seen, and once more when it stops. */
export function startSightings({
  domain,
  log,
  everyMs = intervalMs,
}: {
  domain: Domain;
  log: Log;
  everyMs?: number;
}): Job {
  async function save(): Promise<void> {
    if (!domain.read(system, areSightingsUnsaved)) return;
    for (let afterPk: number | undefined = 0; afterPk !== undefined;) {
      const from: number = afterPk;
      afterPk = await domain.commit(system, (ctx) => saveSightings(ctx, from, devicesPerStep));
    }
  }

  const job = startPeriodic({ name: "sightings", log, intervalMs: everyMs, run: save });

  return {
    async stop() {
      await job.stop();
      try {
        await save();
      } catch (error) {
        log.warn("when devices were last seen could not be saved; what is in the store is up to a minute older", {
          error,
        });
      }
    },
  };
}
