import { afterAll, beforeAll, expect, test } from "vitest";
import { connectMqtt, logIn, openInbox, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { openClient, publishFrame } from "./gate-wire.ts";

// A floor of free disk that no disk has: the gateway stores no reading, and is a broker all the same. What becomes of it
// when there is room again is in faults/disk-floor.test.ts, which needs a disk of its own.

let gateway: LocalGateway;
let api: Api;
let sensorId = "";

beforeAll(async () => {
  gateway = await startLocalGateway({ env: { LAMBDAIOT_DATABASE_MIN_FREE: "1000000000" } });
  api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "full", name: "full", type: "temperature" });
  sensorId = (await api("GET", "/sensors")).body[0].id;
});
afterAll(() => gateway.close());

const reading = (value: number): string => JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value });

test.each([0, 1, 2] as const)("a reading at QoS %d ends the connection without acknowledgement", async (qos) => {
  const refused = gateway.app.counters.get("readings.refused");
  const wire = await openClient(gateway.mqttUrl);
  wire.send(publishFrame("lambdaiot", reading(1), qos));
  await wire.closed;
  expect(wire.received.filter(([first]) => first === 0x40 || first === 0x50)).toEqual([]);
  expect(gateway.app.counters.get("readings.refused")).toBe(refused + 1);
  expect((await api("GET", "/sensor-readings")).body).toEqual([]);
});

test("nobody else hears of it", async () => {
  const listener = await connectMqtt(gateway.mqttUrl);
  const inbox = await openInbox(listener, "#");
  const device = await openClient(gateway.mqttUrl);
  device.send(publishFrame("lambdaiot", reading(2), 1));
  await device.closed;
  const other = await connectMqtt(gateway.mqttUrl);
  for (const qos of [0, 1, 2] as const) await other.publishAsync("free", JSON.stringify({ qos }), { qos });
  await inbox.next(({ qos }) => qos === 2);
  expect(inbox.messages.map(({ body }) => body)).toEqual([{ qos: 0 }, { qos: 1 }, { qos: 2 }]);
  await Promise.all([listener, other].map((client) => client.endAsync()));
});

test("over REST it is 503 in the shape of each API, and a time to come back", async () => {
  const root = await api("POST", "/sensor-readings", { sensor_id: sensorId, value: 1 });
  const v1 = await api("POST", "/v1/data/full", { value: 1, timestamp: "2026-01-14T10:00:00Z" });
  expect(root).toMatchObject({ status: 503, body: { error: expect.stringContaining("disk") as string } });
  expect(v1).toMatchObject({ status: 503, body: { error: { code: "UNAVAILABLE", details: {} } } });
  for (const { headers } of [root, v1]) expect(headers.get("Retry-After")).toBe("30");
});

test("devices announce themselves and are commanded", async () => {
  const device = await connectMqtt(gateway.mqttUrl);
  const inbox = await openInbox(device, "lambdaiot");
  const announcement = { mac_address: "AA:BB:CC:DD:EE:FF", device: { name: "New" }, actors: [{}] };
  await device.publishAsync("lambdaiot/discovery", JSON.stringify(announcement), { qos: 1 });
  const [actor] = (await api("GET", "/actors")).body;
  expect((await api("POST", `/actors/${actor.id}/write`, { action: "set", value: true })).status).toBe(202);
  expect(await inbox.next(({ type }) => type === "actor_command")).toMatchObject({ actor_id: actor.id });
  await device.endAsync();
});

test("health says so, and the log once", async () => {
  expect(await api("GET", "/health")).toMatchObject({ status: 503, body: { status: "error" } });
  const { body } = await api("GET", "/v1/health/database");
  expect(body).toMatchObject({ status: "unhealthy", details: { answers: true, storing: false } });
  await until(() => gateway.log().includes("the disk is nearly full"));
  expect(gateway.log().match(/the disk is nearly full: readings/g)).toHaveLength(1);
});
