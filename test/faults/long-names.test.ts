import { afterAll, beforeAll, expect, test } from "vitest";
import { readMemory, readStore, smallGateway, startGoodDevice, type GoodDevice } from "../hostile/good-device.ts";
import { connectFrame, openClient, openWire, publishFrame, subscribeFrame } from "../mqtt/gate-wire.ts";
import { connectMqtt, logIn, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// Names of a hundred thousand characters wherever there is a name, while a good device publishes.

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let api: Api;
let good: GoodDevice;
let before: ReturnType<typeof readStore>;
beforeAll(async () => {
  gateway = await startBuiltGateway({
    folder,
    command: smallGateway,
    env: {
      LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
      LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "1000",
    },
  });
  api = await logIn(gateway.url);
  good = await startGoodDevice(gateway, api);
  before = readStore(gateway.storePath);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

const long = "x".repeat(100_000);
/** The longest text that MQTT can say. */
const longest = "x".repeat(65_535);

async function callAll(): Promise<void> {
  for (const [path, body] of [
    ["/devices", { name: long, description: "", location: "", status_id: 1 }],
    ["/sensors", { device_id: "x", name: long, type: "t", data_type_id: 2 }],
    ["/register", { username: long, password: "secret123" }],
    ["/v1/devices", { id: long, name: long, type: "t" }],
    [`/v1/data/${"x".repeat(4_000)}`, { value: 1, timestamp: "2026-01-14T10:00:00Z" }],
  ] as const) {
    const { status } = await api("POST", path, body);
    expect({ path: path.slice(0, 20), status }).toEqual({ path: path.slice(0, 20), status: 400 });
  }
}

async function connectAll(): Promise<void> {
  // Before it has logged in, nobody is kept that much.
  for (const parts of [{ clientId: longest }, { username: longest }, { username: "a", password: longest }]) {
    const wire = await openWire(gateway.mqttUrl);
    wire.send(connectFrame(parts));
    await wire.closed;
    expect(wire.received).toEqual([]);
  }
}

async function publishAll(): Promise<void> {
  const client = await connectMqtt(gateway.mqttUrl);
  const announcement = { mac_address: "02:00:00:00:00:77", device: { name: long }, sensors: [{ name: long }] };
  await client.publishAsync("lambdaiot/discovery", JSON.stringify(announcement), { qos: 1 });
  const reading = { type: "sensor_reading", sensor_id: long, value: 1 };
  await client.publishAsync("lambdaiot", JSON.stringify(reading), { qos: 1 });
  await client.endAsync();
  // A topic is only long; one with many levels is no topic.
  const wire = await openClient(gateway.mqttUrl);
  wire.send(publishFrame(longest, "1", 1, 1), subscribeFrame(2, longest));
  await wire.next(0x40);
  await wire.next(0x90);
  await wire.end();
  for (const frame of [publishFrame("/".repeat(65_535), "1", 1, 1), subscribeFrame(1, "+/".repeat(30_000))]) {
    const deep = await openClient(gateway.mqttUrl);
    deep.send(frame);
    await deep.closed;
  }
}

test("names of 100,000 characters are refused, over either API and over MQTT, and leave its memory flat", async () => {
  const round = async (): Promise<void> => {
    await callAll();
    await connectAll();
    await publishAll();
  };
  for (let i = 0; i < 10; i++) await round();
  const warm = readMemory(gateway) ?? 0;
  for (let i = 0; i < 30; i++) await round();
  const after = readMemory(gateway) ?? 0;
  console.log(`40 rounds of long names: ${warm.toFixed(0)} MB, then ${after.toFixed(0)} MB`);
  // What the collector has not come to yet.
  expect(after - warm).toBeLessThan(60);

  const acknowledged = await good.finish();
  const { values, ...rest } = readStore(gateway.storePath);
  const { values: _, ...restBefore } = before;
  expect(rest).toEqual(restBefore);
  expect(values).toEqual(acknowledged);
  expect(acknowledged.length).toBeGreaterThan(10);
  expect(await gateway.stop()).toBe(0);
  expect(
    gateway
      .log()
      .split("\n")
      .filter((line) => / error |hook failed|\bat .*\.mjs/.test(line)),
  ).toEqual([]);
});
