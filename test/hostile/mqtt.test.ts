import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, createApi, logIn, openInbox, until, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { readMemory, readStore, smallGateway, startGoodDevice, type GoodDevice } from "./good-device.ts";

// Bad input over MQTT while a good device publishes: acknowledged and counted where it is a message, cut off where it is
// no MQTT; nothing of it stored, nothing of the good device's lost. The tests run in order; the last ones look.

const { folder, remove } = makeFolder();
let gateway: BuiltGateway;
let api: Api;
let good: GoodDevice;
let before: ReturnType<typeof readStore>;

beforeAll(async () => {
  // Room for payloads that are too large: a packet beyond it would be cut off before it is looked at.
  const env = { LAMBDAIOT_MQTT_MAX_PACKET_BYTES: "2097152" };
  gateway = await startBuiltGateway({ folder, command: smallGateway, env });
  api = await logIn(gateway.url);
  good = await startGoodDevice(gateway, api);
  before = readStore(gateway.storePath);
});
afterAll(async () => {
  await gateway.stop("SIGKILL");
  remove();
});

const unknownSensor = "00000000-0000-4000-8000-000000000000";

/** A reading of the good device's sensor with the fields replaced: had it been good, it would be stored. */
const reading = (fields: Record<string, unknown>): string =>
  JSON.stringify({ type: "sensor_reading", sensor_id: good.sensorId, value: -1, ...fields });
const withValue = (json: string): string => reading({ value: "VALUE" }).replace('"VALUE"', json);

type Payload = string | Buffer;
type Case = [what: string, make: () => Payload];

const badJson: Case[] = [
  ["nothing", () => ""],
  ["half an object", () => '{"type":"sensor_reading",'],
  ["a word", () => "sensor_reading"],
  ["NaN", () => withValue("NaN")],
  ["Infinity", () => withValue("Infinity")],
  ["a number alone", () => "23.7"],
  ["null", () => "null"],
  ["an array", () => `[${reading({})}]`],
  ["text", () => JSON.stringify(reading({}))],
  ["bytes that are no UTF-8", () => Buffer.from(reading({ type: "sensor_reading", name: "\u00ff" }), "latin1")],
  ["a byte order mark", () => `\ufeff${reading({})}`],
  ["UTF-16", () => Buffer.from(reading({}), "utf16le")],
  ["a NUL after the object", () => `${reading({})}\0`],
  ["two objects", () => reading({}) + reading({})],
  ["a comment", () => `/* hello */ ${reading({})}`],
  ["30,000 arrays in one another", () => withValue("[".repeat(30_000) + "]".repeat(30_000))],
  ["20,000 objects in one another", () => withValue(`${'{"":'.repeat(12_000)}1${"}".repeat(12_000)}`)],
  ["100 arrays that never end", () => withValue("[".repeat(100))],
];

const badReadings: Case[] = [
  ["a number beyond all", () => withValue("1e999")],
  ["a negative number beyond all", () => withValue("-1e999")],
  ["no value", () => reading({ value: undefined })],
  ...[null, {}, [], [1], "", " 1", "1 ", "0x1F", "abc", "NaN", "Infinity", "1e999", "1,5", "١"].map((value): Case => [
    `the value ${JSON.stringify(value)}`,
    () => reading({ value }),
  ]),
  ...[undefined, null, 1, "", "x", {}, [], "__proto__", `${unknownSensor}0`, `{${unknownSensor}}`].map((id): Case => [
    `the sensor ${JSON.stringify(id)}`,
    () => reading({ sensor_id: id }),
  ]),
  ...["yesterday", 1_768_384_800, "2026-01-14", "2026-02-30T10:00:00Z", "2026-01-14T10:00:00", {}, true].map(
    (at): Case => [`the time ${JSON.stringify(at)}`, () => reading({ value_at: at })],
  ),
  ["fields in __proto__", () => `{"type":"sensor_reading","__proto__":{"sensor_id":"${good.sensorId}","value":-1}}`],
  ["a value that is __proto__", () => withValue('{"__proto__":{"valueOf":1},"toString":1}')],
  ["a value given twice, the second one bad", () => reading({}).replace("}", ',"value":"x"}')],
  ["5,000 keys and no value", () => reading({ value: undefined, ...manyKeys(5_000) })],
];

const manyKeys = (count: number): Record<string, number> =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, i]));

const tooLarge: Case[] = [
  ["1 MB of spaces", () => reading({}) + " ".repeat(1_000_000)],
  ["1 MB of text", () => reading({ note: "x".repeat(1_000_000) })],
  ["100,000 keys", () => reading(manyKeys(100_000))],
  ["100,000 arrays in one another", () => withValue("[".repeat(100_000) + "]".repeat(100_000))],
  ["1 MB of zero bytes", () => Buffer.alloc(1_000_000)],
];

const mac = "02:00:00:00:00:66";
const announcement = (fields: Record<string, unknown>): string =>
  JSON.stringify({ mac_address: mac, device: { name: "bad" }, sensors: [], actors: [], ...fields });

const badAnnouncements: Case[] = [
  ["neither an address nor an id", () => announcement({ mac_address: undefined })],
  ...["", "02:00", "no address at all", 1, {}, "02:00:00:00:00:6g"].map((address): Case => [
    `the address ${JSON.stringify(address)}`,
    () => announcement({ mac_address: address }),
  ]),
  ["a device that is text", () => announcement({ device: "bad" })],
  ["a device whose id is none", () => announcement({ device: { id: "constructor" } })],
  ["a device with a name of 300 characters", () => announcement({ device: { name: "x".repeat(300) } })],
  ["a device with a number for a name", () => announcement({ device: { name: 1 } })],
  ["sensors that are an object", () => announcement({ sensors: { 0: {} } })],
  ["a sensor that is text", () => announcement({ sensors: ["thermometer"] })],
  ["a sensor whose id is none", () => announcement({ sensors: [{ id: "__proto__" }] })],
  ["a sensor of data type 0", () => announcement({ sensors: [{ data_type_id: 0 }] })],
  ["a sensor of data type 1.5", () => announcement({ sensors: [{ data_type_id: 1.5 }] })],
  ["one good sensor and a bad one", () => announcement({ sensors: [{ name: "good" }, { name: [] }] })],
  ["an actor that is null", () => announcement({ actors: [null] })],
];

const badResponses: Case[] = [
  [
    "an unknown status",
    () => JSON.stringify({ type: "device_check_response", device_id: unknownSensor, status: "fine" }),
  ],
  ["no device", () => JSON.stringify({ type: "device_check_response", status: "ok" })],
];

const strangers: Case[] = [["an unknown sensor", () => reading({ sensor_id: unknownSensor })]];

/** Sends each over one connection and waits for the PUBACKs: all must come, and the connection must stay. */
async function sendAll(topic: string, cases: readonly Case[]): Promise<number> {
  const client = await connectMqtt(gateway.mqttUrl);
  let acknowledged = 0;
  for (const [, make] of cases) {
    await client.publishAsync(topic, make(), { qos: 1 });
    acknowledged += 1;
  }
  expect(client.connected).toBe(true);
  await client.endAsync();
  return acknowledged;
}

describe("a bad message is acknowledged, and its device stays connected", () => {
  test.each<[string, string, readonly Case[]]>([
    ["JSON that is none", "lambdaiot", badJson],
    ["readings that are none", "lambdaiot", badReadings],
    ["readings of strangers", "lambdaiot", strangers],
    ["payloads that are too large", "lambdaiot", tooLarge],
    ["answers that are none", "lambdaiot", badResponses],
    ["announcements that are no JSON", "lambdaiot/discovery", badJson],
    ["announcements that are none", "lambdaiot/discovery", badAnnouncements],
    ["announcements that are too large", "lambdaiot/discovery", tooLarge],
  ])("%s", async (_, topic, cases) => {
    expect(await sendAll(topic, cases)).toBe(cases.length);
  });

  test("at QoS 0 and 2 as well", async () => {
    const client = await connectMqtt(gateway.mqttUrl);
    for (const [, make] of [...badJson, ...badReadings, ...strangers]) {
      await client.publishAsync("lambdaiot", make(), { qos: 0 });
      await client.publishAsync("lambdaiot", make(), { qos: 2 });
    }
    expect(client.connected).toBe(true);
    await client.endAsync();
  });
});

describe("names that JavaScript knows", () => {
  test.each(["__proto__", "constructor", "toString", "hasOwnProperty"])(
    "are names like any other: %s",
    async (name) => {
      const client = await connectMqtt(gateway.mqttUrl, { clientId: name });
      const inbox = await openInbox(client, name);
      await client.publishAsync(name, '{"n":1}', { qos: 1 });
      await client.publishAsync(`lambdaiot/${name}`, reading({}), { qos: 1 });
      expect(await inbox.next(() => true)).toEqual({ n: 1 });
      await client.endAsync();
    },
  );
});

test("a will that is a reading is not stored", async () => {
  const client = await connectMqtt(gateway.mqttUrl, {
    will: { topic: "lambdaiot", payload: Buffer.from(reading({})), qos: 1, retain: false },
  });
  const witness = await connectMqtt(gateway.mqttUrl);
  const inbox = await openInbox(witness, "lambdaiot");
  client.stream.destroy();
  // The will has gone out; what it says would be in the store by the end.
  expect(await inbox.next(({ value }) => value === -1)).toMatchObject({ sensor_id: good.sensorId });
  await witness.endAsync();
});

test.each(["$SYS/new/clients", "$SYS/sub/add", "$lambdaiot"])(
  "what is sent to the broker's own topic %s is acknowledged, and goes nowhere",
  async (topic) => {
    const admin = await logIn(gateway.url);
    const { body } = await admin("POST", "/v1/api-keys", { name: "witness" });
    const witness = await connectMqtt(gateway.mqttUrl, { username: "witness", password: body.key });
    const heard: string[] = [];
    witness.on("message", (on) => void heard.push(on));
    await witness.subscribeAsync([topic, "after"], { qos: 1 });
    const client = await connectMqtt(gateway.mqttUrl);
    await client.publishAsync(topic, reading({}), { qos: 1, retain: true });
    await client.publishAsync("after", "1", { qos: 1 });
    await until(() => heard.includes("after"));
    expect(heard).toEqual(["after"]);
    expect(client.connected).toBe(true);
    await witness.endAsync();
    await client.endAsync();
  },
);

/** Sends bytes that are no MQTT, and resolves when the gateway has cut the connection. */
async function sendRaw(...chunks: Buffer[]): Promise<void> {
  const socket = connect(Number(new URL(gateway.mqttUrl).port), "127.0.0.1");
  const closed = new Promise<void>((resolve) => void socket.once("close", () => resolve()));
  socket.on("error", () => undefined).resume();
  for (const chunk of chunks) socket.write(chunk);
  await closed;
}

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(" ", ""), "hex");
const connectPacket = hex("10 0d 0004 4d515454 04 02 003c 0001 61");

describe("a connection that does not speak MQTT is closed", () => {
  test.each<[string, Buffer[]]>([
    ["HTTP", [Buffer.from("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")]],
    ["the beginning of TLS", [hex("16 0301 0200 0100 01fc 0303"), Buffer.alloc(500, 0x42)]],
    ["all ones", [Buffer.alloc(1_000, 0xff)]],
    ["text", [Buffer.from("hello? ".repeat(100))]],
    ["a length that does not end", [hex("10 ff ff ff ff ff")]],
    ["another protocol's name", [hex("10 0d 0004 4d515455 04 02 003c 0001 61")]],
    ["a version that does not exist", [hex("10 0d 0004 4d515454 09 02 003c 0001 61")]],
    ["a second CONNECT", [connectPacket, connectPacket]],
    ["flags that must not be", [connectPacket, hex("c5 00")]],
    ["a subscription without topics", [connectPacket, hex("82 02 0001")]],
    ["a publication to a wildcard", [connectPacket, hex("32 07 0003 612f23 0001")]],
    ["a publication at QoS 3", [connectPacket, hex("36 05 0001 61 0001")]],
  ])("%s", async (_, chunks) => {
    await sendRaw(...chunks);
    expect(await createApi(gateway.url)("GET", "/health")).toMatchObject({ status: 200 });
  });
});

test("a thousand connections of random bytes leave it as it was", async () => {
  let state = 1;
  const random = (): number => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 16;
  for (let round = 0; round < 20; round++) {
    const sockets = Array.from({ length: 50 }, (_, i) => {
      const socket = connect(Number(new URL(gateway.mqttUrl).port), "127.0.0.1");
      socket.on("error", () => undefined).resume();
      const bytes = Buffer.from(Array.from({ length: 200 }, random));
      socket.end(i % 2 === 0 ? bytes : Buffer.concat([connectPacket, bytes]));
      return once(socket, "close");
    });
    await Promise.all(sockets);
  }
  expect(await createApi(gateway.url)("GET", "/health")).toMatchObject({ status: 200 });
});

test("thousands of bad messages leave its memory flat", { timeout: 60_000 }, async () => {
  const small = [...badReadings, ...strangers, ...badJson];
  const round = async (): Promise<void> => {
    const client = await connectMqtt(gateway.mqttUrl);
    for (let i = 0; i < 20; i++) {
      await Promise.all(small.map(([, make]) => client.publishAsync("lambdaiot", make(), { qos: 1 })));
      await Promise.all(
        badAnnouncements.map(([, make]) => client.publishAsync("lambdaiot/discovery", make(), { qos: 1 })),
      );
    }
    for (const [, make] of tooLarge) await client.publishAsync("lambdaiot", make(), { qos: 1 });
    await client.endAsync();
  };
  await round();
  const warm = readMemory(gateway) ?? 0;
  for (let i = 0; i < 3; i++) await round();
  const after = readMemory(gateway) ?? 0;
  console.log(
    `${20 * 4 * (small.length + badAnnouncements.length)} bad messages: ${warm.toFixed(0)} MB, then ${after.toFixed(0)} MB`,
  );
  // What the collector has not come to yet.
  expect(after - warm).toBeLessThan(60);
});

test("nothing of it was stored, nothing of the good device's lost, and each was counted by its kind", async () => {
  const acknowledged = await good.finish();
  const { values, ...rest } = readStore(gateway.storePath);
  const { values: _, ...restBefore } = before;
  expect(rest).toEqual(restBefore);
  expect(values).toEqual(acknowledged);
  expect(acknowledged.length).toBeGreaterThan(100);

  expect(await gateway.stop()).toBe(0);
  const log = gateway.log();
  expect(log.split("\n").filter((line) => / error |hook failed|\bat .*\.mjs/.test(line))).toEqual([]);
  const counted = Object.fromEntries(
    [...log.matchAll(/mqtt\.rejected\.(\w+)=(\d+)/g)].map(([, name, count]) => [name, Number(count)]),
  );
  for (const kind of ["not_json", "bad_reading", "bad_announcement", "bad_response", "unknown_sensor", "too_large"])
    expect(counted[kind]).toBeGreaterThan(0);
  // Sampled: a device that sends nonsense does not fill the disk with it.
  expect(log.split("\n").length).toBeLessThan(100);
});
