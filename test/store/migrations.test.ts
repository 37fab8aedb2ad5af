import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Sqlite from "better-sqlite3";
import { migrations } from "embedded:migrations";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createCounters } from "../../src/counters.ts";
import { createLog } from "../../src/log.ts";
import { encodeArrivals } from "../../src/store/columns.ts";
import { openStore } from "../../src/store/open.ts";
import { makeFolder } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

// A store of an earlier schema is brought to the newest with everything in it, and copied first. What is in the stores that
// earlier versions have really left behind, and what becomes of it: fixtures.test.ts.

let own: ReturnType<typeof makeFolder>;
let path: string;
beforeEach(() => {
  own = makeFolder();
  path = join(own.folder, "lambdaiot.db");
});
afterEach(() => own.remove());

const device = { id: "3814fb88-565c-5dc8-9b91-60d4002b6edc", name: "Room Sensor" };
const reading = { id: 1, sensorPk: 1, valueAt: 1_768_384_800_000, value: 21.5 };

/** A store as the version before the migration number `schema` (from 1) left it, with a device and a reading. */
function makeStoreOf(schema: number): void {
  const sqlite = new Sqlite(path);
  sqlite.pragma("auto_vacuum = INCREMENTAL"); // as every version has
  for (const { statements } of migrations.slice(0, schema)) for (const statement of statements) sqlite.exec(statement);
  sqlite.pragma("application_id = 0x6c696f74");
  sqlite.pragma(`user_version = ${schema}`);
  sqlite
    .prepare(
      `INSERT INTO devices (id, name, description, location, status_id, created_at, updated_at) VALUES (:id, :name, '', '', 1, 0, 0)`,
    )
    .run(device);
  sqlite
    .prepare(
      "INSERT INTO sensors (id, device_pk, name, type, data_type_id, created_at, updated_at) VALUES ('s', 1, 'S', 't', 2, 0, 0)",
    )
    .run();
  if (schema <= 5) {
    sqlite
      .prepare("INSERT INTO readings (sensor_pk, value_at, value) VALUES (:sensorPk, :valueAt, :value)")
      .run(reading);
  } else {
    sqlite.exec("DROP TABLE readings; DROP TABLE resends"); // what the sixth does besides its SQL
    const data = encodeArrivals(1, () => ({ ...reading, fingerprint: 0 }));
    sqlite.prepare("INSERT INTO arrivals (first_id, count, data) VALUES (1, 1, ?)").run(data);
  }
  sqlite.close();
}

async function openAndClose(): Promise<void> {
  const log = createLog({ level: "error", write: () => undefined });
  await openStore({ path, maxPendingWrites: 100, log, counters: createCounters() }).close();
}

function look(file: string) {
  const sqlite = new Sqlite(file, { readonly: true, fileMustExist: true });
  try {
    const isOfRows = sqlite.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'readings'").get() !== undefined;
    return {
      schema: sqlite.pragma("user_version", { simple: true }),
      integrity: sqlite.pragma("integrity_check", { simple: true }),
      device: sqlite.prepare("SELECT id, name FROM devices").get(),
      sensor: sqlite.prepare("SELECT id, device_pk AS devicePk, name FROM sensors").get(),
      reading: isOfRows
        ? sqlite.prepare("SELECT id, sensor_pk AS sensorPk, value_at AS valueAt, value FROM readings").get()
        : readReadings(file)[0],
    };
  } finally {
    sqlite.close();
  }
}

function readRetention() {
  const sqlite = new Sqlite(path, { readonly: true });
  try {
    return {
      ...(sqlite.prepare("SELECT retention_days, dropped_before FROM sensors").get() as object),
      auto_vacuum: sqlite.pragma("auto_vacuum", { simple: true }),
    };
  } finally {
    sqlite.close();
  }
}

const kept = { integrity: "ok", device, sensor: { id: "s", devicePk: 1, name: "S" }, reading };

test.each(migrations.slice(1).map(({ name }, i) => [i + 1, name] as const))(
  "a store of schema %d, before %s, keeps what it holds, and a copy of itself",
  async (schema) => {
    makeStoreOf(schema);
    await openAndClose();
    expect(look(path)).toEqual({ ...kept, schema: migrations.length });
    // As long as all others', and nothing has been dropped.
    expect(readRetention()).toEqual({ retention_days: null, dropped_before: null, auto_vacuum: 2 });
    expect(look(`${path}-schema-${schema}.bak`)).toEqual({ ...kept, schema });
  },
);

test("more readings than are moved at a time keep their order, also where one instant's are parted", async () => {
  makeStoreOf(5);
  const sqlite = new Sqlite(path);
  sqlite.exec(
    `WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 39999)
     INSERT INTO readings (sensor_pk, value_at, value) SELECT 1, 1000 * (i / 3), i FROM n`,
  );
  sqlite.close();
  await openAndClose();
  const added = Array.from({ length: 40_000 }, (_, i) => ({
    id: i + 2,
    sensorPk: 1,
    valueAt: 1_000 * Math.floor(i / 3),
    value: i,
  }));
  expect(readReadings(path)).toEqual([reading, ...added]);
});

test("a copy that was broken off does not count as one", async () => {
  makeStoreOf(1);
  writeFileSync(`${path}-schema-1.bak.part`, "half of");
  await openAndClose();
  expect(look(`${path}-schema-1.bak`)).toEqual({ ...kept, schema: 1 });
  expect(existsSync(`${path}-schema-1.bak.part`)).toBe(false);
});

test("a store of the newest schema is opened without a copy", async () => {
  makeStoreOf(migrations.length);
  await openAndClose();
  expect(look(path)).toEqual({ ...kept, schema: migrations.length });
  expect(existsSync(`${path}-schema-${migrations.length}.bak`)).toBe(false);
});
