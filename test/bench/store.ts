import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { createReadings } from "../../src/store/readings.ts";
import { startGateway } from "./processes.ts";

// Fills a gateway's store directly: what is measured is how it is served, not how it got there.

/** Has the gateway make and migrate the store in `folder`, and adds sensors, by default ten to a device. @returns their ids */
export async function makeStore(
  folder: string,
  sensors: number,
  readingsOfEach = 0,
  { sensorsOfDevice = 10 }: { sensorsOfDevice?: number } = {},
): Promise<string[]> {
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
      if (i % sensorsOfDevice === 0) devicePk = addDevice.run(randomUUID()).lastInsertRowid;
      addSensor.run(id, devicePk);
    }
  })();
  fill(sqlite, readingsOfEach);
  sqlite.close();
  return sensorIds;
}

/** All sensors in turn, one reading each a second, as they would have come; sealed as the gateway would by then. */
function fill(sqlite: Sqlite.Database, readingsOfEach: number): void {
  const readings = createReadings(sqlite);
  const from = Date.parse("2026-01-14T10:00:00Z");
  const sensorPks = sqlite.prepare<[], number>("SELECT pk FROM sensors ORDER BY pk").pluck().all();
  const commit = (work: () => void): void => {
    sqlite.transaction(() => {
      work();
      readings.beforeCommit();
    })();
    readings.settle();
  };
  const perCommit = 50;
  for (let first = 0; first < readingsOfEach; first += perCommit) {
    commit(() => {
      for (let n = first; n < Math.min(readingsOfEach, first + perCommit); n++) {
        for (const pk of sensorPks) readings.append(pk, from + n * 1_000, 20 + ((n * 7 + pk * 13) % 1_000) / 100);
      }
    });
    while (readings.isSealingDue()) commit(() => void readings.seal(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER));
  }
}

/** Resolves when the rollups, which a full store sets going, have caught up: they would take their share of a measurement. */
export async function untilRolledUp(folder: string): Promise<void> {
  const sqlite = new Sqlite(`${folder}/lambdaiot.db`, { readonly: true });
  const isDone = sqlite
    .prepare("SELECT value >= (SELECT max(first_id + count - 1) FROM arrivals) FROM progress WHERE name = 'rollups'")
    .pluck();
  while (isDone.get() !== 1) await sleep(100);
  sqlite.close();
}
