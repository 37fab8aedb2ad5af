import type { MqttClient } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, logIn, openInbox, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// A device sends readings; REST gives them back. A PUBACK means committed, so nothing here has to be waited for, but for
// what is sent with QoS 0.

let gateway: LocalGateway;
let api: Api;
let deviceId: string;
const start = Date.parse("2026-01-14T10:00:00Z");
let clock = start;

beforeAll(async () => {
  gateway = await startLocalGateway({ now: () => clock });
  api = await logIn(gateway.url);
  const device = { name: "Room", description: "", location: "", status_id: 1 };
  deviceId = (await api("POST", "/devices", device)).body.id;
});
afterAll(() => gateway.close());

const unknownId = "550e8400-e29b-41d4-a716-446655440000";

async function createSensor(data_type_id = 2): Promise<string> {
  const fields = { device_id: deviceId, name: "Temperature", type: "temp", data_type_id };
  return (await api("POST", "/sensors", fields)).body.id;
}

const list = async (sensor: string) => (await api("GET", `/sensor-readings?sensor_id=${sensor}`)).body;

const countRejected = (): number =>
  Object.entries(gateway.app.counters.snapshot())
    .filter(([name]) => name.startsWith("mqtt.rejected."))
    .reduce((sum, [, count]) => sum + count, 0);

describe.each([
  ["TCP", () => gateway.mqttUrl],
  ["WebSocket", () => `${gateway.url.replace("http", "ws")}/mqtt`],
])("over %s", (_, urlOf) => {
  let client: MqttClient;
  beforeAll(async () => {
    client = await connectMqtt(urlOf());
  });
  afterAll(() => client.endAsync());

  const publish = (body: object | string, qos: 0 | 1 | 2 = 1) =>
    client.publishAsync("lambdaiot", typeof body === "string" ? body : JSON.stringify(body), { qos });
  const send = (fields: object, qos: 0 | 1 | 2 = 1) => publish({ type: "sensor_reading", ...fields }, qos);

  test.each(["sensor_reading", "sensor_value"])("a message of type %s is a reading", async (type) => {
    const sensor_id = await createSensor();
    await publish({ type, sensor_id, value: 23.7, value_at: "2026-01-14T10:00:00Z" });
    const reading = { id: expect.any(Number), sensor_id, value: 23.7, value_at: "2026-01-14T10:00:00Z" };
    expect(await list(sensor_id)).toEqual([reading]);
  });

  test.each([0, 1, 2] as const)("a reading with QoS %d is stored once", async (qos) => {
    const sensor_id = await createSensor();
    await send({ sensor_id, value: qos }, qos);
    // What follows it is acknowledged after it.
    await send({ sensor_id, value: 99, value_at: "2026-01-14T09:00:00Z" });
    const stored = await until(async () => {
      const readings = await list(sensor_id);
      return readings.length > 1 && readings;
    });
    expect(stored.map(({ value }: { value: number }) => value)).toEqual([qos, 99]);
  });

  test.each([
    ["23.7", 23.7],
    ["-40", -40],
    ["0", 0],
    ["-0", 0],
    ["1e3", 1_000],
    ["2.5E-3", 0.0025],
    ["9007199254740992", 2 ** 53],
    ["true", 1],
    ["false", 0],
    ['"23.7"', 23.7],
    ['"1"', 1],
    ['"0"', 0],
    ['"-0"', 0],
    ['"-5"', -5],
    ['"+5"', 5],
    ['".5"', 0.5],
    ['"5."', 5],
    ['"007"', 7],
    ['"1e3"', 1_000],
    ['"-2.5E-3"', -0.0025],
    ['"1E+2"', 100],
  ])("the value %s is stored as %d", async (json, value) => {
    const sensor_id = await createSensor();
    await publish(`{"type":"sensor_reading","sensor_id":"${sensor_id}","value":${json}}`);
    const readings = await list(sensor_id);
    expect(readings).toHaveLength(1);
    expect(Object.is(readings[0].value, value)).toBe(true);
  });

  test("no value is refused because of its sensor's data type", async () => {
    for (const dataType of [1, 2, 77]) {
      const sensor_id = await createSensor(dataType);
      for (const value of [true, 23.7, "0"]) await send({ sensor_id, value });
      expect(await list(sensor_id)).toHaveLength(3);
    }
  });

  test.each([
    "null",
    "{}",
    '{"value":1}',
    "[]",
    "[1]",
    '""',
    '" "',
    '" 1"',
    '"1 "',
    '"1\\n"',
    '"0x1F"',
    '"0b1"',
    '"1_000"',
    '"1,5"',
    '"1.2.3"',
    '"12abc"',
    '"e5"',
    '"1e"',
    '"."',
    '"+"',
    '"--1"',
    '"NaN"',
    '"Infinity"',
    '"-Infinity"',
    '"1e999"',
    '"true"',
    '"on"',
    '"٣"',
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "0x1F",
    "",
  ])("the value %s is acknowledged, counted and not stored", async (json) => {
    const sensor_id = await createSensor();
    const before = countRejected();
    await publish(`{"type":"sensor_reading","sensor_id":"${sensor_id}","value":${json}}`);
    expect(await list(sensor_id)).toEqual([]);
    expect(countRejected()).toBe(before + 1);
    expect(client.connected).toBe(true);
  });

  test.each([
    ["no value", { value: undefined }],
    ["no sensor", { sensor_id: undefined }],
    ["a sensor that is not there", { sensor_id: unknownId }],
    ["a sensor id that is none", { sensor_id: "SC-TEMP-001" }],
    ["a sensor id that is a number", { sensor_id: 1 }],
    ["a time without an offset", { value_at: "2026-01-14T10:00:00" }],
    ["a time in seconds", { value_at: 1768384800 }],
    ["an empty time", { value_at: "" }],
    ["the 30th of February", { value_at: "2024-02-30T10:00:00Z" }],
  ])("a reading with %s is acknowledged, counted and not stored", async (_case, fields) => {
    const sensor_id = await createSensor();
    const before = countRejected();
    await send({ sensor_id, value: 1, ...fields });
    expect(await list(sensor_id)).toEqual([]);
    expect(countRejected()).toBe(before + 1);
    expect(client.connected).toBe(true);
  });

  test("an id in upper case is the same sensor", async () => {
    const sensor_id = await createSensor();
    await send({ sensor_id: sensor_id.toUpperCase(), value: 1 });
    expect(await list(sensor_id)).toHaveLength(1);
  });

  test.each([
    ["omitted", undefined, "2026-01-14T10:00:00Z"],
    ["null", null, "2026-01-14T10:00:00Z"],
    ["in UTC", "2026-01-14T09:59:00Z", "2026-01-14T09:59:00Z"],
    ["with an offset", "2026-01-14T10:29:00+01:30", "2026-01-14T08:59:00Z"],
    ["with a fraction", "2026-01-14T09:59:00.5Z", "2026-01-14T09:59:00.500Z"],
    ["years ago", "2001-02-03T04:05:06Z", "2001-02-03T04:05:06Z"],
    ["24 hours ahead", "2026-01-15T10:00:00Z", "2026-01-15T10:00:00Z"],
    ["24 hours and a millisecond ahead", "2026-01-15T10:00:00.001Z", "2026-01-14T10:00:00Z"],
    ["in the year 2099", "2099-01-01T00:00:00Z", "2026-01-14T10:00:00Z"],
  ])("a time %s is taken as the contract says", async (_case, value_at, shown) => {
    clock = start;
    const aheadBefore = gateway.app.counters.get("mqtt.clock_ahead");
    const sensor_id = await createSensor();
    await send({ sensor_id, value: 1, value_at });
    expect(await list(sensor_id)).toMatchObject([{ value: 1, value_at: shown }]);
    const isAhead = value_at === "2026-01-15T10:00:00.001Z" || value_at === "2099-01-01T00:00:00Z";
    expect(gateway.app.counters.get("mqtt.clock_ahead") - aheadBefore).toBe(isAhead ? 1 : 0);
  });

  test("one time and one value are one reading; one time and two values are two", async () => {
    const sensor_id = await createSensor();
    const value_at = "2026-01-14T09:00:00Z";
    await send({ sensor_id, value: 5, value_at });
    await send({ sensor_id, value: "5", value_at: "2026-01-14T10:00:00+01:00" });
    await send({ sensor_id, value: 5, value_at }, 2);
    expect(await list(sensor_id)).toHaveLength(1);
    await send({ sensor_id, value: 6, value_at });
    expect(await list(sensor_id)).toMatchObject([{ value: 6 }, { value: 5 }]);
  });

  test("two equal readings without a time, within one millisecond, are two", async () => {
    const sensor_id = await createSensor();
    await Promise.all([send({ sensor_id, value: 5 }), send({ sensor_id, value: 5 })]);
    await send({ sensor_id, value: 5 }, 2);
    const readings = await list(sensor_id);
    expect(readings).toHaveLength(3);
    expect(new Set(readings.map(({ value_at }: { value_at: string }) => value_at)).size).toBe(1);
  });

  test("a reading of a thousand sent at once is where it belongs, and each is there", async () => {
    const sensor_id = await createSensor();
    await Promise.all(Array.from({ length: 1_000 }, (_unused, value) => send({ sensor_id, value })));
    const { body } = await api("GET", `/sensor-readings?sensor_id=${sensor_id}&limit=1000`);
    // In the order in which they were sent, though the clock stood still.
    expect(body.map(({ value }: { value: number }) => value)).toEqual(
      Array.from({ length: 1_000 }, (_u, i) => 999 - i),
    );
  });

  test("others see a reading as it was sent, and messages of other types pass untouched and uncounted", async () => {
    const observer = await connectMqtt(urlOf());
    const inbox = await openInbox(observer, "lambdaiot");
    const sensor_id = await createSensor();
    const rejectedBefore = countRejected();
    const messages = [
      { type: "sensor_reading", sensor_id, value: "23.70", unit: "°C" },
      { type: "weather", sensor_id, value: 1 },
      { type: "ping", timestamp: "2026-01-14T10:00:00Z" },
      { type: "sensor_trigger", sensor_id, action: "read" },
      { sensor_id, value: 2 },
      { type: ["sensor_reading"], sensor_id, value: 3 },
      { type: "__proto__", sensor_id, value: 4 },
    ];
    for (const message of messages) await publish(message);
    await inbox.next(({ type }) => type === "__proto__");
    expect(inbox.messages.map(({ body }) => body)).toEqual(messages);
    expect(await list(sensor_id)).toHaveLength(1);
    expect(countRejected()).toBe(rejectedBefore);
    await observer.endAsync();
  });

  test("readings on other topics are nobody's", async () => {
    const sensor_id = await createSensor();
    const reading = JSON.stringify({ type: "sensor_reading", sensor_id, value: 1 });
    for (const topic of ["other", "lambdaiot/x", "/lambdaiot", "LambdaIoT", "lambdaiot/discovery"])
      await client.publishAsync(topic, reading, { qos: 1 });
    expect(await list(sensor_id)).toEqual([]);
  });
});
