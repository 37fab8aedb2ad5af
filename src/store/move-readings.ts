import type { Database } from "better-sqlite3";
import { createBlocks } from "./blocks.ts";
import { encodeArrivals, type Columns } from "./columns.ts";
import { firstInstant } from "./sources.ts";

/** A few blocks' worth, so that a store of any size is moved in the same memory. */
const readingsPerStep = 16_384;

/** The readings of a store whose schema kept each in a row of its own, into blocks; what was next to come stays next. */
export function moveReadings(sqlite: Database): void {
  const blocks = createBlocks(sqlite);
  const list = sqlite
    .prepare<{ sensorPk: number; at: number; id: number }, [id: number, valueAt: number, value: number]>(
      `SELECT id, value_at, value FROM readings WHERE sensor_pk = :sensorPk AND (value_at, id) > (+:at, +:id)
       ORDER BY value_at, id LIMIT ${readingsPerStep}`,
    )
    .raw();
  for (const sensorPk of sqlite.prepare<[], number>("SELECT DISTINCT sensor_pk FROM readings").pluck().all()) {
    let place = { at: firstInstant, id: 0 };
    for (;;) {
      const rows = list.all({ sensorPk, ...place });
      const last = rows.at(-1);
      if (last === undefined) break;
      const columns: Columns = {
        ids: rows.map(([id]) => id),
        times: rows.map(([, valueAt]) => valueAt),
        values: rows.map(([, , value]) => value + 0),
      };
      blocks.merge(sensorPk, columns);
      place = { at: last[1], id: last[0] };
    }
  }

  // Messages that are sent again across the upgrade are known too: their fingerprints, without readings.
  const fingerprints = sqlite.prepare<[], number>("SELECT fingerprint FROM resends ORDER BY seq").pluck().all();
  const lastId =
    sqlite.prepare<[], number>("SELECT seq FROM sqlite_sequence WHERE name = 'readings'").pluck().get() ?? 0;
  if (lastId > 0) {
    const count = Math.max(1, fingerprints.length);
    const data = encodeArrivals(count, (i) => ({
      sensorPk: 0,
      valueAt: 0,
      value: 0,
      fingerprint: fingerprints[i] ?? 0,
    }));
    sqlite.prepare("INSERT INTO arrivals (first_id, count, data) VALUES (?, ?, ?)").run(lastId + 1, count, data);
  }
  sqlite.exec("DROP TABLE readings; DROP TABLE resends; DELETE FROM rollups WHERE width = 60000");
}
