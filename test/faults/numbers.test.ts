import { afterAll, beforeAll, expect, test } from "vitest";
import type { MqttClient } from "mqtt";
import { connectMqtt, logIn, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

// Every odd number through every door. A device may say a value in more ways than a program (contract, "values"); what is
// not finite comes in nowhere.

const { folder, remove } = makeFolder();
let gateway: LocalGateway;
let api: Api;
let client: MqttClient;
let sensorId = "";
beforeAll(async () => {
  gateway = await startLocalGateway({ folder });
  api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "d", name: "d", type: "t" });
  [sensorId] = ((await api("GET", "/sensors")).body as { id: string }[]).map(({ id }) => id) as [string];
  client = await connectMqtt(gateway.mqttUrl);
});
afterAll(async () => {
  await client.endAsync();
  await gateway.close();
  remove();
});

let turn = 0;
/** No two readings at one time: the second would be taken for a resend. */
const nextTime = (): string => new Date(Date.UTC(2026, 0, 1) + turn++ * 1_000).toISOString();

const doors: Record<string, (json: string) => Promise<unknown>> = {
  MQTT: (json) =>
    client.publishAsync(
      "lambdaiot",
      `{"type":"sensor_reading","sensor_id":"${sensorId}","value":${json},"value_at":"${nextTime()}"}`,
      { qos: 1 },
    ),
  root: (json) =>
    api("POST", "/sensor-readings", `{"sensor_id":"${sensorId}","value":${json},"value_at":"${nextTime()}"}`),
  v1: (json) => api("POST", "/v1/data/d", `{"value":${json},"timestamp":"${nextTime()}"}`),
};

/** The values that the store has gained by `run`. */
async function storedBy(run: () => Promise<unknown>): Promise<unknown[]> {
  const look = (): unknown[] => readReadings(gateway.storePath).map(({ value }) => value);
  const before = look().length;
  await run();
  return look().slice(before);
}

const refused = { MQTT: [], root: [], v1: [] };
const both = (value: number) => ({ MQTT: [value], root: [value], v1: [value] });

test.each<[string, Record<string, number[]>]>([
  ["NaN", refused],
  ["Infinity", refused],
  ["-Infinity", refused],
  ["1e999", refused],
  ["-1e999", refused],
  ["0x1F", refused],
  ["null", refused],
  ['"NaN"', refused],
  ['"Infinity"', refused],
  ['"1e999"', refused],
  ['"0x1F"', refused],
  ['""', refused],
  ["true", { ...refused, MQTT: [1] }],
  ['"12.5"', { ...refused, MQTT: [12.5] }],
  ["-0", both(0)],
  ["1.7976931348623157e308", both(Number.MAX_VALUE)],
  ["5e-324", both(5e-324)],
  // The nearest number that there is.
  ["9007199254740993", both(2 ** 53)],
])("the value %s", async (json, expected) => {
  for (const [name, door] of Object.entries(doors)) {
    const stored = await storedBy(() => door(json));
    expect({ name, stored }).toEqual({ name, stored: expected[name] });
  }
});

test("all that is stored is finite, and comes back as it went in", async () => {
  const { body } = await api("GET", `/sensor-readings?sensor_id=${sensorId}&limit=1000`);
  expect(body.length).toBeGreaterThan(10);
  for (const { value } of body as { value: unknown }[]) expect(Number.isFinite(value)).toBe(true);
});
