import { afterEach, expect, test } from "vitest";
import { openClient, publishFrame, subscribeFrame, type Wire } from "../mqtt/gate-wire.ts";
import { connectMqtt, logIn, until } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// Subscribers that do not read, on a busy topic. More is sent than all buffers of the system between two sockets hold.

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

const block = 12_288;
/** More than Aedes has under way at once: were they waited for, everything would stand still. */
const count = 2_400;
const megabyte = 1_048_576;

async function start(env: Record<string, string | number>): Promise<LocalGateway> {
  const { folder, remove } = makeFolder();
  const texts = Object.fromEntries(Object.entries(env).map(([key, value]) => [`LAMBDAIOT_MQTT_${key}`, `${value}`]));
  const gateway = await startLocalGateway({ folder, env: texts });
  cleanUps.push(remove, () => gateway.close());
  return gateway;
}

/** A connection with a subscription that reads nothing from now on. */
async function openSleeper({ mqttUrl }: LocalGateway, clientId: string, isClean = true): Promise<Wire> {
  const wire = await openClient(mqttUrl, { clientId, isClean });
  wire.send(subscribeFrame(1, "busy"));
  await wire.next(0x90);
  wire.socket.pause();
  cleanUps.push(() => wire.end());
  return wire;
}

/** The number that each block begins with. */
const numberOf = (payload: Buffer): number => payload.readUInt32BE(0);

function makeBlock(number: number): Buffer {
  const payload = Buffer.alloc(block);
  payload.writeUInt32BE(number);
  return payload;
}

/** Publishes `count` blocks, QoS 0 and 1 by turns, while a device sends readings; all of it must come through. */
async function bustle(gateway: LocalGateway, first = 0): Promise<void> {
  const api = await logIn(gateway.url);
  const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
  const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
  const sensor_id = (await api("POST", "/sensors", input)).body.id as string;

  const heard: number[] = [];
  const witness = await connectMqtt(gateway.mqttUrl);
  witness.on("message", (_, payload) => void heard.push(numberOf(payload)));
  await witness.subscribeAsync("busy", { qos: 1 });
  const publisher = await connectMqtt(gateway.mqttUrl);
  const reporter = await connectMqtt(gateway.mqttUrl);
  for (let i = 0; i < count; i += 40) {
    const value = { type: "sensor_reading", sensor_id, value: i };
    await Promise.all([
      reporter.publishAsync("lambdaiot", JSON.stringify(value), { qos: 1 }),
      ...Array.from({ length: 40 }, (_, n) =>
        publisher.publishAsync("busy", makeBlock(first + i + n), { qos: n % 2 === 0 ? 0 : 1 }),
      ),
    ]);
  }
  await until(() => heard.length >= count);
  expect(heard.toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => first + i));
  const { body } = await api("GET", `/sensor-readings?sensor_id=${sensor_id}`);
  expect(body).toHaveLength(count / 40);
  for (const client of [witness, publisher, reporter]) await client.endAsync();
}

const closed = (gateway: LocalGateway, reason: "drain_timeout" | "unread_full" | "unread_total_full"): number =>
  gateway.app.counters.get(`mqtt.gate.${reason}`);
const published = ({ received }: Wire): Buffer[] => received.filter((packet) => (packet[0] as number) >> 4 === 3);

test("one that reads nothing delays neither readings nor other subscribers, and gets all when it reads again", async () => {
  // As long as this test takes, it is not cut off: whoever waited for it would wait in vain.
  const gateway = await start({
    MAX_UNREAD_BYTES: 256 * megabyte,
    MAX_UNREAD_BYTES_TOTAL: 256 * megabyte,
    DRAIN_TIMEOUT: 3_600,
  });
  const sleeper = await openSleeper(gateway, "sleeper");
  await bustle(gateway);
  expect(sleeper.isClosed()).toBe(false);
  sleeper.socket.resume();
  await until(() => published(sleeper).length === count);
});

test("one that leaves more unread than it may is cut off, and nobody else notices", async () => {
  const gateway = await start({ DRAIN_TIMEOUT: 3_600 });
  const sleeper = await openSleeper(gateway, "sleeper");
  await bustle(gateway);
  expect(closed(gateway, "unread_full")).toBe(1);
  sleeper.socket.resume(); // or it does not see that it was closed
  await sleeper.closed;
});

test("one that reads nothing for as long as the drain timeout is cut off", async () => {
  const gateway = await start({
    MAX_UNREAD_BYTES: 256 * megabyte,
    MAX_UNREAD_BYTES_TOTAL: 256 * megabyte,
    DRAIN_TIMEOUT: 1,
  });
  await openSleeper(gateway, "sleeper");
  await bustle(gateway);
  expect(await until(() => closed(gateway, "drain_timeout") === 1)).toBe(true);
});

test("many that are behind are cut off when they leave too much unread together", async () => {
  const gateway = await start({
    MAX_UNREAD_BYTES: 256 * megabyte,
    MAX_UNREAD_BYTES_TOTAL: 8 * megabyte,
    DRAIN_TIMEOUT: 3_600,
  });
  const sleepers = await Promise.all([1, 2, 3].map((n) => openSleeper(gateway, `sleeper-${n}`)));
  await bustle(gateway);
  expect(closed(gateway, "unread_total_full")).toBeGreaterThan(0);
  // Room again: those who remain may leave as much unread as before.
  for (const sleeper of sleepers) await sleeper.end();
  await openSleeper(gateway, "sleeper-4");
  await bustle(gateway, count);
});

test("one with a session to keep that was cut off finds in its queue what it has missed", async () => {
  const gateway = await start({ DRAIN_TIMEOUT: 3_600, MAX_QUEUED_MESSAGES: 10_000 });
  const sleeper = await openSleeper(gateway, "sleeper", false);
  await bustle(gateway);
  expect(closed(gateway, "unread_full")).toBe(1);
  sleeper.socket.resume();
  await sleeper.closed;
  const heard = new Set(published(sleeper).map((packet) => numberOf(packet.subarray(packet.length - block))));

  const back = await connectMqtt(gateway.mqttUrl, { clientId: "sleeper", clean: false });
  cleanUps.push(() => back.endAsync());
  back.on("message", (_, payload) => void heard.add(numberOf(payload)));
  // Of QoS 1, every other one.
  await until(() => Array.from({ length: count / 2 }, (_, i) => 2 * i + 1).every((number) => heard.has(number)));
});

test.each(["retained messages", "a session's queue"])(
  "more of %s than may be unread go out as fast as their client reads",
  async (kind) => {
    const gateway = await start({
      MAX_UNREAD_BYTES: 65_536,
      DRAIN_TIMEOUT: 3_600,
      MAX_RETAINED_BYTES: 64 * megabyte,
      MAX_QUEUED_MESSAGES: 10_000,
    });
    const subscription = subscribeFrame(1, "many/#");
    const parts = { clientId: "reader", isClean: false };
    if (kind === "a session's queue") {
      const before = await openClient(gateway.mqttUrl, parts);
      before.send(subscription);
      await before.next(0x90);
      await before.end();
    }
    const publisher = await connectMqtt(gateway.mqttUrl);
    for (let i = 0; i < count; i += 50) {
      const publish = (n: number) =>
        publisher.publishAsync(`many/${n}`, makeBlock(n), { qos: 1, retain: kind === "retained messages" });
      await Promise.all(Array.from({ length: 50 }, (_, n) => publish(i + n)));
    }
    await publisher.endAsync();

    const reader = await openClient(gateway.mqttUrl, parts);
    cleanUps.push(() => reader.end());
    reader.socket.pause();
    reader.send(subscription);
    // What there is room for has been sent; others are served as ever.
    const witness = await connectMqtt(gateway.mqttUrl);
    for (let i = 0; i < 3_000; i++) await witness.publishAsync("elsewhere", "x", { qos: 1 });
    await witness.endAsync();
    expect(reader.isClosed()).toBe(false);
    reader.socket.resume();
    await until(() => published(reader).length >= count);
    expect(closed(gateway, "unread_full")).toBe(0);
  },
);

test("one that asks for more and more and reads nothing of it is cut off, too", async () => {
  const gateway = await start({ MAX_UNREAD_BYTES: 65_536, DRAIN_TIMEOUT: 3_600 });
  const keeper = await connectMqtt(gateway.mqttUrl);
  for (let i = 0; i < 50; i++) await keeper.publishAsync(`many/${i}`, makeBlock(i), { qos: 1, retain: true });
  await keeper.endAsync();
  const wire = await openClient(gateway.mqttUrl, { clientId: "greedy" });
  cleanUps.push(() => wire.end());
  wire.socket.pause();
  // A message of its own to itself, again and again.
  wire.send(subscribeFrame(1, "#"));
  const frame = publishFrame("mine", Buffer.alloc(200_000));
  await until(() => {
    if (closed(gateway, "unread_full") > 0) return true;
    wire.send(frame);
    return false;
  });
  const other = await openClient(gateway.mqttUrl);
  expect(other.isClosed()).toBe(false);
  await other.end();
});
