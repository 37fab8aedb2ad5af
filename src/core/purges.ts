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
  const changes = ctx.readings.removeOf(purge.sensorPk, limit);
  if (changes >= limit) return true;
  // The rollups go last, and in the same steps: until then they may still be summing up what waits for removal.
  const rolled = ctx.db.$client
    .prepare(
      `DELETE FROM rollups WHERE (width, sensor_pk, start_at) IN
         (SELECT width, sensor_pk, start_at FROM rollups WHERE width IN (3600000, 86400000) AND sensor_pk = ? LIMIT ?)`,
    )
    .run(purge.sensorPk, limit - changes);
  if (rolled.changes < limit - changes) ctx.db.delete(purges).where(eq(purges.sensorPk, purge.sensorPk)).run();
  return true;
}
