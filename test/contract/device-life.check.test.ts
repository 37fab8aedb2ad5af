import type { MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, logIn, openInbox, until, type Api, type Inbox } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// The gateway asks its devices whether they are there, here once a second. The tests run at the same time: each has
// devices of its own, and most of it is waiting.

const status = { ok: 1, pending: 2, lost: 3, disabled: 4 } as const;

let gateway: LocalGateway;
let api: Api;
let client: MqttClient;
let inbox: Inbox;

beforeAll(async () => {
  gateway = await startLocalGateway({ env: { LAMBDAIOT_MQTT_DEVICE_CHECK_INTERVAL: "1" } });
  api = await logIn(gateway.url);
  client = await connectMqtt(gateway.mqttUrl);
  inbox = await openInbox(client, "lambdaiot");
});
afterAll(() => gateway.close());

let lastMac = 0;

interface Device {
  id: string;
  sensorId: string;
  announce(): Promise<unknown>;
  respond(said: string): Promise<unknown>;
  status(): Promise<number>;
  countRequests(): number;
}

async function announceDevice(): Promise<Device> {
  const mac_address = (++lastMac).toString(16).padStart(12, "0");
  const name = `Device ${mac_address}`;
  const announcement = JSON.stringify({ mac_address, device: { name }, sensors: [{ name: "Sensor" }] });
  const announce = () => client.publishAsync("lambdaiot/discovery", announcement, { qos: 1 });
  await announce();
  const { id } = (await api("GET", "/devices")).body.find((device: { name: string }) => device.name === name);
  const sensor = (await api("GET", "/sensors")).body.find((one: { device_id: string }) => one.device_id === id);
  return {
    id,
    sensorId: sensor.id,
    announce,
    respond: (said) => publish({ type: "device_check_response", device_id: id, status: said }),
    status: async () => (await api("GET", `/devices/${id}`)).body.status_id,
    countRequests: () => requestsTo(id).length,
  };
}

const publish = (body: object) => client.publishAsync("lambdaiot", JSON.stringify(body), { qos: 1 });
const requestsTo = (id: string) =>
  inbox.messages.filter(({ body }) => body["type"] === "device_check_request" && body["device_id"] === id);

/** Answers each request to `device` from now on. */
function keepAnswering(device: Device): void {
  client.on("message", (_topic, payload) => {
    const { type, device_id } = JSON.parse(payload.toString());
    if (type === "device_check_request" && device_id === device.id) void device.respond("ok");
  });
}

const untilLost = (device: Device) => until(async () => (await device.status()) === status.lost, 20_000);

describe.concurrent("device check", () => {
  test("a request to each device goes out on the main topic, as documented", async ({ expect }) => {
    const device = await announceDevice();
    const request = await inbox.next(({ device_id }) => device_id === device.id);
    expect(request).toEqual({
      type: "device_check_request",
      device_id: device.id,
      requested_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z$/),
    });
  });

  test("a device that keeps silent for three intervals is lost, and not before", async ({ expect }) => {
    // At the third request two intervals have passed. What is read then counts only where the fourth is not there yet.
    const { device, seen } = await until(async () => {
      const device = await announceDevice();
      await until(() => device.countRequests() >= 3);
      const seen = await device.status();
      return device.countRequests() === 3 && { device, seen };
    }, 20_000);
    expect(seen).toBe(status.ok);
    await untilLost(device);
    const asked = device.countRequests();
    expect(await until(() => device.countRequests() > asked)).toBe(true); // it is asked further
  });

  test("a device that answers, or sends readings, is not lost while others are", async ({ expect }) => {
    const [answering, sending, silent] = [await announceDevice(), await announceDevice(), await announceDevice()];
    keepAnswering(answering);
    const timer = setInterval(
      () => void publish({ type: "sensor_reading", sensor_id: sending.sensorId, value: 1 }),
      500,
    );
    await untilLost(silent);
    await until(() => silent.countRequests() >= 6);
    clearInterval(timer);
    expect(await answering.status()).toBe(status.ok);
    expect(await sending.status()).toBe(status.ok);
  });

  test.each<[string, (device: Device) => Promise<unknown>]>([
    ["an answer", (device) => device.respond("ok")],
    ["a reading", ({ sensorId }) => publish({ type: "sensor_reading", sensor_id: sensorId, value: 1 })],
    ["an announcement", (device) => device.announce()],
  ])("%s brings a lost device back at once", async (_, speak) => {
    const device = await announceDevice();
    await untilLost(device);
    await speak(device);
    expect(await device.status()).toBe(status.ok);
  });

  test("what a device says of itself is taken as said", async ({ expect }) => {
    const device = await announceDevice();
    for (const said of ["pending", "lost", "pending", "ok", "lost"] as const) {
      await device.respond(said);
      expect(await device.status()).toBe(status[said]);
    }
    await publish({ type: "sensor_reading", sensor_id: device.sensorId, value: 1 });
    expect(await device.status()).toBe(status.ok);
  });

  test("a disabled device is not asked, is never lost, and stays disabled whatever it sends", async ({ expect }) => {
    const [disabled, other] = [await announceDevice(), await announceDevice()];
    await api("PUT", `/devices/${disabled.id}`, { status_id: status.disabled });
    await until(() => other.countRequests() >= 1);
    const asked = disabled.countRequests(); // once, where a round was under way
    for (const said of ["ok", "pending", "lost"]) await disabled.respond(said);
    await disabled.announce();
    await publish({ type: "sensor_reading", sensor_id: disabled.sensorId, value: 1 });
    await untilLost(other);
    await until(() => other.countRequests() >= 5);
    expect(disabled.countRequests()).toBe(asked);
    expect(await disabled.status()).toBe(status.disabled);
    expect((await api("GET", `/sensor-readings?sensor_id=${disabled.sensorId}`)).body).toHaveLength(1);
    await api("PUT", `/devices/${disabled.id}`, { status_id: status.ok });
    await until(() => disabled.countRequests() > asked);
  });

  test("a reading that a user sends is no sign of life", async ({ expect }) => {
    const device = await announceDevice();
    await untilLost(device);
    const { status: answer } = await api("POST", "/sensor-readings", { sensor_id: device.sensorId, value: 1 });
    expect(answer).toBe(201);
    expect(await device.status()).toBe(status.lost);
  });
});

test.each([
  ["a device that is not there", { device_id: "550e8400-e29b-41d4-a716-446655440000" }],
  ["an id that is none", { device_id: "SC-TEMP-001" }],
  ["no id", { device_id: undefined }],
  ["a status that is none", { status: "fine" }],
  ["the status disabled", { status: "disabled" }],
  ["a status by number", { status: 3 }],
  ["no status", { status: undefined }],
])("a response with %s is acknowledged and changes nothing", async (_, fields) => {
  const { id } = await announceDevice();
  const before = (await api("GET", `/devices/${id}`)).body;
  await publish({ type: "device_check_response", device_id: id, status: "lost", ...fields });
  expect((await api("GET", `/devices/${id}`)).body).toEqual(before);
  expect(client.connected).toBe(true);
});
