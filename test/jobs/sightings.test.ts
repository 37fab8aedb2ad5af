import { afterEach, beforeEach, expect, test } from "vitest";
import { getDevice, noteMessage, type Device } from "../../src/core/devices.ts";
import { areSightingsUnsaved } from "../../src/core/sightings.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import { startSightings } from "../../src/jobs/sightings.ts";
import { connectMqtt, logIn, until } from "../support/client.ts";
import { makeFolder, startLocalGateway } from "../support/gateway.ts";
import { addDevice, openTestStore, start, type TestStore } from "../support/store.ts";

let t: TestStore;
let device: Device;
let job: Job | undefined;
const later = start + 5_000;
const see = (): Promise<void> => t.commit((ctx) => noteMessage(ctx, getDevice(ctx, device.id)));
beforeEach(async () => {
  t = openTestStore();
  device = await t.commit((ctx) => addDevice(ctx));
  // That it was seen at all is saved at once; this is about what comes after that.
  await see();
  t.clock.at = later;
  await see();
});
afterEach(async () => {
  await job?.stop();
  job = undefined;
  await t.close();
});

const seenAt = (): number | null => t.read((ctx) => getDevice(ctx, device.id)).lastSeenAt;
const run = (everyMs?: number): Job =>
  (job = startSightings({ domain: t.domain, log: t.log, ...(everyMs !== undefined && { everyMs }) }));

test("are saved from time to time", async () => {
  run(10);
  await until(() => !t.read(areSightingsUnsaved));
  await t.reopen();
  expect(seenAt()).toBe(later);
});

test("are saved by a clean stop; a crash forgets what has come since they were", async () => {
  await t.reopen();
  expect(seenAt()).toBe(start);
  await see();
  await run().stop();
  job = undefined;
  await t.reopen();
  expect(seenAt()).toBe(later);
});

test("a stop that cannot save them says so, and is one all the same", async () => {
  run();
  await t.store.close();
  await job?.stop();
  job = undefined;
  expect(t.logged()).toContain("when devices were last seen could not be saved");
});

test("a gateway that is stopped right after a message knows at its next start when that was", async () => {
  const { folder, remove } = makeFolder();
  const first = await startLocalGateway({ folder });
  const api = await logIn(first.url);
  const { id } = (await api("POST", "/v1/devices", { name: "Sensor", type: "temperature" })).body;
  const [sensor] = (await api("GET", `/v1/devices/${id}`)).body.sensors;
  const client = await connectMqtt(first.mqttUrl);
  const message = { type: "sensor_reading", sensor_id: sensor.id, value: 1 };
  await client.publishAsync("lambdaiot", JSON.stringify(message), { qos: 1 });
  const { lastSeen } = (await api("GET", `/v1/devices/${id}`)).body;
  await until(async () => {
    await client.publishAsync("lambdaiot", JSON.stringify(message), { qos: 1 });
    return (await api("GET", `/v1/devices/${id}`)).body.lastSeen !== lastSeen;
  });
  const before = (await api("GET", `/v1/devices/${id}`)).body;
  await client.endAsync();
  await first.close();

  const second = await startLocalGateway({ folder });
  const after = (await (await logIn(second.url))("GET", `/v1/devices/${id}`)).body;
  await second.close();
  remove();
  expect(before).toMatchObject({ lastSeen: expect.any(String), status: "online" });
  expect(after).toMatchObject({ lastSeen: before.lastSeen, status: "online" });
});
