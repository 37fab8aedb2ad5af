import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { startGateway } from "./processes.ts";

// Fills a gateway's store directly: what is measured is how it is served, not how it got there.

/** Has the gateway make and migrate the store in `folder`, and adds sensors, ten to a device. @returns their ids */
export async function makeStore(folder: string, sensors: number, readingsOfEach = 0): Promise<string[]> {
  await (await startGateway(folder))[Symbol.asyncDispose]();
  const sqlite = new Sqlite(`${folder}/lambdaiot.db`);
  const addDevice = sqlite.prepare(
    `INSERT INTO devices (id, name, description, location, status_id, edited_fields, created_at, updated_at)
     VALUES (?, 'Device', '', '', 1, '[]', 0, 0)`,
  );
  const addSensor = sqlite.prepare(
    `INSERT INTO sensors (id, device_pk, name, type, data_type_id, edited_fields, created_at, updated_at)
     VALUES (?, ?, 'Sensor', 'temperature', 2, '[]', 0, 0)`,
  );
  const sensorIds = Array.from({ length: sensors }, () => randomUUID());
  sqlite.transaction(() => {
    let devicePk: number | bigint = 0;
    for (const [i, id] of sensorIds.entries()) {
      if (i % 10 === 0) devicePk = addDevice.run(randomUUID()).lastInsertRowid;
      addSensor.run(id, devicePk);
    }
    // All sensors in turn, one reading each a second, as they would have come.
    sqlite
      .prepare(
        `WITH RECURSIVE tick (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM tick WHERE n < ? - 1)
         INSERT INTO readings (sensor_pk, value_at, value)
         SELECT s.pk, ? + n * 1000, 20 + (n * 7 + s.pk * 13) % 1000 / 100.0 FROM tick JOIN sensors s WHERE ? > 0`,
      )
      .run(readingsOfEach, Date.parse("2026-01-14T10:00:00Z"), readingsOfEach);
  })();
  sqlite.close();
  return sensorIds;
}

/** Resolves when the rollups, which a full store sets going, have caught up: they would take their share of a measurement. */
export async function untilRolledUp(folder: string): Promise<void> {
  const sqlite = new Sqlite(`${folder}/lambdaiot.db`, { readonly: true });
  const isDone = sqlite
    .prepare("SELECT value >= (SELECT max(id) FROM readings) FROM progress WHERE name = 'rollups'")
    .pluck();
  while (isDone.get() !== 1) await sleep(100);
  sqlite.close();
}
