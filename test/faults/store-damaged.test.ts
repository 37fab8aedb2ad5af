import { closeSync, openSync, writeSync } from "node:fs";
import Sqlite from "better-sqlite3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openClient, publishFrame } from "../mqtt/gate-wire.ts";
import { createReadings } from "../../src/store/readings.ts";
import { connectMqtt, logIn, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { createRandom } from "../support/random.ts";

// Pages in the middle of the store that a bad disk has made worthless. They are met only by what reads them: the start
// does not. (Damage that the start meets, and files that are no store, are in test/store/start-errors.test.ts.)

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let api: Api;
let sensorId = "";

beforeAll(async () => {
  gateway = await startBuiltGateway({ folder });
  api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "d", name: "d", type: "t" });
  [sensorId] = ((await api("GET", "/sensors")).body as { id: string }[]).map(({ id }) => id) as [string];
  await gateway.stop();

  const sqlite = new Sqlite(gateway.storePath);
  const pk = sqlite.prepare<[], number>("SELECT pk FROM sensors").pluck().get() as number;
  fill(sqlite, pk);
  const pages = sqlite
    .prepare<[], { pageno: number; pgsize: number }>(
      "SELECT pageno, pgsize FROM dbstat WHERE name = 'blocks' AND pagetype = 'leaf'",
    )
    .all();
  sqlite.pragma("wal_checkpoint(TRUNCATE)");
  sqlite.close();
  if (pages.length < 5) throw new Error("too few pages to damage");
  const file = openSync(gateway.storePath, "r+");
  for (const { pageno, pgsize } of pages) writeSync(file, Buffer.alloc(pgsize, 0x5a), 0, pgsize, (pageno - 1) * pgsize);
  closeSync(file);
  gateway = await startBuiltGateway({ folder });
  api = await logIn(gateway.url);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

/** A time among the readings whose pages are damaged. */
const within = new Date(2_000_000).toISOString();

/** Readings enough that they have been sealed, of values that do not compress. */
function fill(sqlite: Sqlite.Database, pk: number): void {
  const readings = createReadings(sqlite, { maxRecent: 1_000 });
  const random = createRandom(1);
  const commit = (work: () => void): void => {
    sqlite.transaction(() => {
      work();
      readings.beforeCommit();
    })();
    readings.settle();
  };
  for (let i = 0; i < 40; i++) {
    commit(() => {
      for (let n = 0; n < 500; n++) readings.append(pk, (i * 500 + n) * 1_000, random());
    });
  }
  while (readings.isSealingDue()) commit(() => void readings.seal(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER));
}

test("what needs a damaged page is refused in the dialect's shape, health says so, and the rest is served", async () => {
  expect(await api("GET", `/sensor-readings?sensor_id=${sensorId}&to=${within}`)).toMatchObject({
    status: 503,
    body: { error: "the store is damaged" },
  });
  expect(await api("GET", `/v1/data/d?to=${within}`)).toMatchObject({
    status: 503,
    body: { error: { message: "the store is damaged", details: {} } },
  });
  expect(await api("GET", "/health")).toMatchObject({ status: 503, body: { status: "error" } });
  const { body: health } = await api("GET", "/v1/health");
  expect(health.metrics.database).toEqual({ status: "unhealthy", score: 0 });

  expect(await api("GET", "/devices")).toMatchObject({ status: 200, body: [{ name: "d" }] });
  const client = await connectMqtt(gateway.mqttUrl);
  await client.publishAsync("anywhere", "1", { qos: 1 });
  await client.endAsync();
});

test("a reading that would lie among damaged ones is not acknowledged, one of today is", async () => {
  expect((await api("POST", "/sensor-readings", { sensor_id: sensorId, value: 1, value_at: within })).status).toBe(503);
  const wire = await openClient(gateway.mqttUrl);
  const reading = { type: "sensor_reading", sensor_id: sensorId, value: 1, value_at: within };
  wire.send(publishFrame("lambdaiot", JSON.stringify(reading), 1, 1));
  await wire.closed;
  expect(wire.received.filter((packet) => packet[0] === 0x40)).toEqual([]);
  expect((await api("POST", "/sensor-readings", { sensor_id: sensorId, value: 1 })).status).toBe(201);
});

test("it says once what is wrong and what to do, and ends when it is told to", async () => {
  expect(gateway.process.exitCode).toBe(null);
  expect(await gateway.stop()).toBe(0);
  expect(gateway.log().match(/ warn .*the store is damaged: restore a backup/g)).toHaveLength(1);
  expect(gateway.log()).not.toMatch(/request failed|\bat .*\.mjs/);
});
