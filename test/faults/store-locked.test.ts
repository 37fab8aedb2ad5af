import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openClient, pingFrame, publishFrame } from "../mqtt/gate-wire.ts";
import { readStore } from "../hostile/good-device.ts";
import { createApi, logIn, until, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// Another program has the store's lock: a backup, or somebody who looks with the sqlite3 shell. SQLite would let the whole
// process wait for it, for as long as it is told to.

const lockedMs = 7_000;

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let api: Api;
let sensorId = "";
beforeAll(async () => {
  gateway = await startBuiltGateway({ folder });
  api = await logIn(gateway.url);
  const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
  const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
  sensorId = (await api("POST", "/sensors", input)).body.id as string;
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

const reading = (value: number): string => JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value });

test("while the store is locked, pings and reads are answered; readings wait and are committed when it is free", async () => {
  const other = new Sqlite(gateway.storePath, { timeout: 5_000 });
  const wire = await openClient(gateway.mqttUrl, { clientId: "patient", keepAlive: 2 });
  other.exec("BEGIN IMMEDIATE");
  wire.send(...[1, 2, 3].map((value) => publishFrame("lambdaiot", reading(value), 1, value)));
  const posted = api("POST", "/sensor-readings", { sensor_id: sensorId, value: 4 });

  let answers = 0;
  const pings = (): number => wire.received.filter((packet) => packet[0] === 0xd0).length;
  for (const freeAt = Date.now() + lockedMs; Date.now() < freeAt;) {
    wire.send(pingFrame);
    answers += 1;
    await until(() => pings() === answers);
    expect(await createApi(gateway.url)("GET", "/hello")).toMatchObject({ status: 200 });
    expect(await api("GET", `/sensor-readings?sensor_id=${sensorId}`)).toMatchObject({ status: 200, body: [] });
    // Nothing is acknowledged before it is durable.
    expect(wire.received.filter((packet) => packet[0] === 0x40)).toEqual([]);
    await sleep(50);
  }
  // Not one or two after it: had the process stood still, there would have been no more.
  expect(answers).toBeGreaterThan(10);
  other.exec("ROLLBACK");
  other.close();
  expect(await posted).toMatchObject({ status: 201 });
  await until(() => wire.received.filter((packet) => packet[0] === 0x40).length === 3);
  expect(wire.isClosed()).toBe(false);
  await wire.end();
  expect(readStore(gateway.storePath).values.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4]);
  expect(await createApi(gateway.url)("GET", "/health")).toMatchObject({ status: 200 });
});
