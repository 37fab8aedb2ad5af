import { eq, getTableColumns, sql, type SQL } from "drizzle-orm";
import { devices } from "../store/schema.ts";
import { lastSeenSql } from "../store/sightings.ts";
import type { Ctx } from "./ctx.ts";

/** A hundred readings a second tell no more than one that the device is there. */
const resolutionMs = 1_000;

/** When a device was last seen, by any message of its own, to a resolution of one second; for a query over devices. */
export const lastSeenAt: SQL<number | null> = sql.raw(lastSeenSql) as SQL<number | null>;

const { savedSeenAt: _, ...ownColumns } = getTableColumns(devices);

/** All that is known of a device, for a query over devices. */
export const deviceColumns = { ...ownColumns, lastSeenAt };

/** The device is seen now. */
export function noteSeen(ctx: Ctx, device: { pk: number; lastSeenAt: number | null }): void {
  const { pk, lastSeenAt } = device;
  const now = ctx.now();
  // A clock that was set back must not freeze the time of the last sign of life in the future.
  if (lastSeenAt !== null && Math.abs(now - lastSeenAt) < resolutionMs) return;
  // The first time is saved at once: a device that is there, and was never seen, is a riddle after a crash.
  if (lastSeenAt === null) ctx.db.update(devices).set({ savedSeenAt: now }).where(eq(devices.pk, pk)).run();
  else ctx.sightings.note(pk, now);
  device.lastSeenAt = now; // what is kept in memory of the device stays right (see store/sources)
}

export const areSightingsUnsaved = ({ sightings }: Ctx): boolean => sightings.areAny();

/**
 * Saves when devices were last seen, of the next `limit` devices after `afterPk` (from 0).
 * @returns where to go on; `undefined`: all is saved
 */
export const saveSightings = ({ sightings }: Ctx, afterPk: number, limit: number): number | undefined =>
  sightings.save(afterPk, limit);
