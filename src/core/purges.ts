import { asc, eq } from "drizzle-orm";
import { purges } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";

/**
 * Removes up to `limit` readings of sensors that are gone.
 * @returns false when nothing is left to remove
 */
export function purgeStep(ctx: Ctx, limit: number): boolean {
  const purge = ctx.db.select().from(purges).orderBy(asc(purges.sensorPk)).limit(1).get();
  if (purge === undefined) return false;
  const { changes } = ctx.db.$client
    .prepare("DELETE FROM readings WHERE id IN (SELECT id FROM readings WHERE sensor_pk = ? LIMIT ?)")
    .run(purge.sensorPk, limit);
  if (changes < limit) ctx.db.delete(purges).where(eq(purges.sensorPk, purge.sensorPk)).run();
  return true;
}
