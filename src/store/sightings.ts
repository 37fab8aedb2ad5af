import type { Database } from "better-sqlite3";

// When devices were last seen. That changes each second and device, and written where it belongs it would have nearly
// every commit write a page of `devices` beside its own. So it gathers in a temporary table, which is in memory: what a
// rollback takes back is taken back here too, and the log is spared. From time to time it is saved in `devices`.
//
// What is here goes before what is there, whichever is later: the clock may have been set back.

/** When a device was last seen, in a query over `devices`. */
export const lastSeenSql =
  "coalesce((SELECT seen_at FROM temp.sightings WHERE device_pk = devices.pk), devices.last_seen_at)";

export interface Sightings {
  note(devicePk: number, at: number): void;
  areAny(): boolean;
  /**
   * Saves those of the next `limit` devices after `afterPk`.
   * @returns where to go on; `undefined`: there are no more
   */
  save(afterPk: number, limit: number): number | undefined;
  /** Changes in memory until now, which SQLite counts with all others. */
  changes(): number;
}

export function createSightings(sqlite: Database): Sightings {
  // A device that is gone is left behind for a while, and nobody asks for it: its pk is never given out again.
  sqlite.exec("CREATE TEMP TABLE sightings (device_pk INTEGER PRIMARY KEY, seen_at INTEGER NOT NULL) STRICT");
  const put = sqlite.prepare<[devicePk: number, at: number]>(
    `INSERT INTO temp.sightings (device_pk, seen_at) VALUES (?, ?)
     ON CONFLICT (device_pk) DO UPDATE SET seen_at = excluded.seen_at`,
  );
  const any = sqlite.prepare<[], number>("SELECT 1 FROM temp.sightings LIMIT 1").pluck();
  const last = sqlite
    .prepare<[afterPk: number, limit: number], number | null>(
      `SELECT max(device_pk) FROM
         (SELECT device_pk FROM temp.sightings WHERE device_pk > ? ORDER BY device_pk LIMIT ?)`,
    )
    .pluck();
  const copy = sqlite.prepare<[afterPk: number, lastPk: number]>(
    // The `+` has the planner go through those that were seen, and not through all devices between.
    `UPDATE main.devices SET last_seen_at = s.seen_at FROM temp.sightings s
     WHERE devices.pk = +s.device_pk AND s.device_pk > ? AND s.device_pk <= ?`,
  );
  const clear = sqlite.prepare<[afterPk: number, lastPk: number]>(
    "DELETE FROM temp.sightings WHERE device_pk > ? AND device_pk <= ?",
  );
  let changes = 0;
  return {
    note: (devicePk, at) => void (changes += put.run(devicePk, at).changes),
    areAny: () => any.get() === 1,
    save(afterPk, limit) {
      const lastPk = last.get(afterPk, limit) ?? undefined;
      if (lastPk === undefined) return undefined;
      copy.run(afterPk, lastPk);
      const { changes: count } = clear.run(afterPk, lastPk);
      changes += count;
      return count < limit ? undefined : lastPk;
    },
    changes: () => changes,
  };
}
