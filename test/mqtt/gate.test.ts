import { setTimeout as sleep } from "node:timers/promises";
import Sqlite from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { counterTable } from "../../src/counters.ts";
import { connectMqtt, until } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import {
  connectFrame,
  disconnectFrame,
  frame,
  idFrame,
  messageIdOf,
  openClient,
  openWire,
  pingFrame,
  publishFrame,
  subscribeFrame,
  unsubscribeFrame,
} from "./gate-wire.ts";
import { readReadings } from "../support/stored.ts";

// The gate between the network and the broker, by raw bytes over real sockets.

let gateway: LocalGateway;
beforeAll(async () => {
  gateway = await startLocalGateway({ env: { LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "1000" } });
});
afterAll(() => gateway.close());

type Reason = keyof (typeof counterTable)["mqtt.gate"]["reasons"];
const count = (reason: Reason): number => gateway.app.counters.get(`mqtt.gate.${reason}`);

const mac_address = "aabbccddeeff";
/** The first sensor of the device with that address. */
const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
const announcement = JSON.stringify({ mac_address, sensors: [{}] });
const reading = (value: number): string => JSON.stringify({ type: "sensor_reading", sensor_id, value });

/** A wire with the device announced. */
async function openDevice(parts: Parameters<typeof openClient>[1] = {}) {
  const wire = await openClient(gateway.mqttUrl, parts);
  wire.send(publishFrame("lambdaiot/discovery", announcement, 1, 60_000));
  await wire.next(0x40);
  wire.received.length = 0;
  return wire;
}

const storedValues = (min: number, max: number): number[] =>
  readReadings(gateway.storePath)
    .map(({ value }) => value)
    .filter((value) => value >= min && value <= max);

/** Holds the store's commits, as another program that writes to the file would, until the result is called. */
function holdCommits(): () => void {
  const sqlite = new Sqlite(gateway.storePath);
  sqlite.exec("BEGIN IMMEDIATE");
  return () => {
    sqlite.exec("ROLLBACK");
    sqlite.close();
  };
}

const acknowledged = (wire: { received: Buffer[] }): number[] =>
  wire.received.filter((packet) => packet[0] === 0x40).map(messageIdOf);

const notUtf8 = Buffer.from([0x61, 0xff, 0x62]);
const overlong = Buffer.from([0x61, 0xc0, 0xaf]);
const surrogate = Buffer.from([0xed, 0xa0, 0x80]);

describe("a connection is closed at once", () => {
  test.each<[string, Reason, Buffer[]]>([
    ["HTTP", "not_connect", [Buffer.from("GET / HTTP/1.1\r\n\r\n")]],
    ["a TLS hello", "not_connect", [Buffer.from("16030102000100", "hex")]],
    ["PUBLISH first", "not_connect", [publishFrame("lambdaiot", "{}")]],
    ["PINGREQ first", "not_connect", [pingFrame]],
    ["a single byte that begins no CONNECT", "not_connect", [Buffer.of(0x11)]],
    ["another protocol's name", "not_connect", [frame(0x10, Buffer.from("\0\x04MQTX\x04\x02\0\0\0\0", "latin1"))]],
    ["a CONNECT that announces 200 MB", "too_large", [Buffer.of(0x10, 0x80, 0x84, 0xaf, 0x5f)]],
    ["a CONNECT that announces 5 KB", "too_large", [Buffer.of(0x10, 0x88, 0x27)]],
    ["a length of five bytes", "malformed", [Buffer.of(0x10, 0xff, 0xff, 0xff, 0xff, 0x01)]],
    [
      "a CONNECT that is cut off within",
      "malformed",
      [frame(0x10, Buffer.from("\0\x04MQTT\x04\x02\0\0\0\x09a", "latin1"))],
    ],
    ["a CONNECT with something behind it", "malformed", [frame(0x10, connectFrame().subarray(2), Buffer.of(1))]],
    ["a password without a username", "malformed", [connectFrame({ password: "x" })]],
    ["MQTT 5", "unsupported_version", [connectFrame({ level: 5 })]],
    ["a client id that is no UTF-8", "bad_text", [connectFrame({ clientId: notUtf8 })]],
    ["a client id with a NUL", "bad_text", [connectFrame({ clientId: "a\0b" })]],
    ["a username with a surrogate", "bad_text", [connectFrame({ username: surrogate })]],
    ["a will topic that is no UTF-8", "bad_text", [connectFrame({ will: { topic: overlong, payload: "x" } })]],
    ["a will to everybody", "bad_topic", [connectFrame({ will: { topic: "#", payload: "x" } })]],
    ["a will to a/+/b", "bad_topic", [connectFrame({ will: { topic: "a/+/b", payload: "x" } })]],
    ["a will to nobody", "bad_topic", [connectFrame({ will: { topic: "", payload: "x" } })]],
  ])("before login: %s", async (_, fault, frames) => {
    const before = count(fault);
    const wire = await openWire(gateway.mqttUrl);
    wire.send(...frames);
    await wire.closed;
    expect(count(fault)).toBe(before + 1);
    // CONNACK 1, unacceptable protocol version [MQTT-3.1.2-2]; nothing for the others.
    expect(wire.received).toEqual(fault === "unsupported_version" ? [Buffer.of(0x20, 2, 0, 1)] : []);
  });

  test.each<[string, Reason, Buffer]>([
    ["a second CONNECT", "malformed", connectFrame()],
    ["a packet that announces 300 KB", "too_large", Buffer.of(0x30, 0x80, 0xa8, 0x12)],
    ["PUBLISH at QoS 3", "malformed", frame(0x36, Buffer.from("\0\x01a\0\x01", "latin1"))],
    ["PUBLISH with message id 0", "malformed", publishFrame("a", "x", 1, 0)],
    ["PUBLISH with message id 0 at QoS 2", "malformed", publishFrame("a", "x", 2, 0)],
    ["PUBLISH whose topic goes beyond it", "malformed", frame(0x30, Buffer.from("\0\x09a", "latin1"))],
    ["PUBLISH without a topic", "malformed", frame(0x30)],
    ["PUBLISH to a topic that is empty", "bad_topic", publishFrame("", "x")],
    ["PUBLISH to a wildcard", "bad_topic", publishFrame("lambdaiot/#", "x")],
    ["PUBLISH to a+b", "bad_topic", publishFrame("a+b", "x")],
    ["PUBLISH to a topic that is no UTF-8", "bad_text", publishFrame(notUtf8, "x")],
    ["PUBLISH to a topic with a NUL", "bad_text", publishFrame("a\0", "x")],
    ["SUBSCRIBE without filters", "malformed", subscribeFrame(1)],
    ["SUBSCRIBE with message id 0", "malformed", subscribeFrame(0, "a")],
    ["SUBSCRIBE at QoS 3", "malformed", frame(0x82, Buffer.from("\0\x01\0\x01a\x03", "latin1"))],
    ["SUBSCRIBE with flags that must not be", "malformed", frame(0x80, Buffer.from("\0\x01\0\x01a\x01", "latin1"))],
    ["SUBSCRIBE to a filter that is no UTF-8", "bad_text", subscribeFrame(1, "ok", surrogate)],
    ["SUBSCRIBE to a filter with a NUL", "bad_text", subscribeFrame(1, "\0")],
    ["SUBSCRIBE to a#", "bad_topic", subscribeFrame(1, "a#")],
    ["SUBSCRIBE to #/a", "bad_topic", subscribeFrame(1, "#/a")],
    ["SUBSCRIBE to a filter that is empty", "bad_topic", subscribeFrame(1, "")],
    ["UNSUBSCRIBE without filters", "malformed", unsubscribeFrame(1)],
    ["UNSUBSCRIBE from a filter that is no UTF-8", "bad_text", unsubscribeFrame(1, overlong)],
    ["PUBACK of three bytes", "malformed", frame(0x40, Buffer.of(0, 1, 2))],
    ["PUBREL with message id 0", "malformed", idFrame(0x62, 0)],
    ["PUBREL without its flag", "malformed", idFrame(0x60, 1)],
    ["PINGREQ with a body", "malformed", frame(0xc0, Buffer.of(1))],
    ["CONNACK", "malformed", Buffer.of(0x20, 2, 0, 0)],
    ["a type that does not exist", "malformed", Buffer.of(0xf0, 0)],
  ])("after login: %s", async (_, fault, bytes) => {
    const before = count(fault);
    const wire = await openClient(gateway.mqttUrl);
    wire.send(bytes);
    await wire.closed;
    expect(count(fault)).toBe(before + 1);
    expect(wire.received).toHaveLength(1); // the CONNACK
  });

  test("over WebSocket as well", async () => {
    const before = count("not_connect");
    const socket = new WebSocket(`${gateway.url.replace("http", "ws")}/mqtt`, "mqtt");
    socket.addEventListener("open", () => socket.send(Buffer.from("hello")));
    await new Promise((resolve) => socket.addEventListener("close", resolve));
    expect(count("not_connect")).toBe(before + 1);
  });

  test("and nothing of it reaches anybody, while a topic in another script does", async () => {
    const witness = await connectMqtt(gateway.mqttUrl);
    const topics: string[] = [];
    witness.on("message", (topic) => void topics.push(topic));
    await witness.subscribeAsync("#");
    for (const topic of [notUtf8, "a\0b", overlong, surrogate]) {
      const wire = await openClient(gateway.mqttUrl);
      wire.send(publishFrame(topic, "x", 1));
      await wire.closed;
    }
    for (const topic of [notUtf8, "wills/#", "wills/+"]) {
      const wire = await openWire(gateway.mqttUrl);
      wire.send(connectFrame({ will: { topic, payload: "gone" } }));
      await wire.closed;
    }
    const wire = await openClient(gateway.mqttUrl, { clientId: "Küche" });
    wire.send(publishFrame("дом/温度", "x", 1));
    await until(() => topics.length > 0);
    expect(topics).toEqual(["дом/温度"]);
    await wire.end();
    await witness.endAsync();
  });
});

test("all packets get through byte by byte", async () => {
  const wire = await openWire(gateway.mqttUrl);
  const send = async (bytes: Buffer): Promise<void> => {
    for (const byte of bytes) {
      wire.send(Buffer.of(byte));
      await new Promise(setImmediate);
    }
  };
  await send(connectFrame({ clientId: "slow", will: { topic: "wills", payload: "x" }, keepAlive: 60 }));
  expect(await wire.next(0x20)).toEqual(Buffer.of(0x20, 2, 0, 0));
  await send(subscribeFrame(1, "slow/one", "slow/+/two"));
  expect(await wire.next(0x90)).toEqual(Buffer.of(0x90, 4, 0, 1, 1, 1));
  await send(publishFrame("slow/one", "zero".repeat(100)));
  expect((await wire.next(0x30)).subarray(-4).toString()).toBe("zero");
  await send(publishFrame("slow/one", "one", 1, 2));
  expect(messageIdOf(await wire.next(0x40))).toBe(2);
  const delivered = await wire.next(0x32);
  await send(idFrame(0x40, delivered.readUInt16BE(2 + 2 + "slow/one".length)));
  await send(publishFrame("elsewhere", "two", 2, 3));
  expect(messageIdOf(await wire.next(0x50))).toBe(3);
  await send(idFrame(0x62, 3));
  expect(messageIdOf(await wire.next(0x70))).toBe(3);
  await send(unsubscribeFrame(4, "slow/one"));
  expect(messageIdOf(await wire.next(0xb0))).toBe(4);
  await send(pingFrame);
  expect(await wire.next(0xd0)).toEqual(Buffer.of(0xd0, 0));
  await send(disconnectFrame);
  await wire.closed;
});

test("many packets in one piece, cut anywhere, get through as they are", async () => {
  const wire = await openDevice();
  const bytes = Buffer.concat(
    Array.from({ length: 400 }, (_, i) => publishFrame("lambdaiot", reading(10_000 + i), 1, i + 1)),
  );
  for (let at = 0, step = 1; at < bytes.length; at += step, step = ((step * 31) % 977) + 1)
    wire.send(bytes.subarray(at, at + step));
  await until(() => acknowledged(wire).length === 400);
  expect(acknowledged(wire)).toEqual(Array.from({ length: 400 }, (_, i) => i + 1));
  expect(storedValues(10_000, 10_399)).toEqual(Array.from({ length: 400 }, (_, i) => 10_000 + i));
  await wire.end();
});

test("a client that does not wait for the answer to its CONNECT is heard to the last message", async () => {
  await (await openDevice()).end();
  const wire = await openWire(gateway.mqttUrl);
  const frames = Array.from({ length: 1_500 }, (_, i) => publishFrame("lambdaiot", reading(20_000 + i), 1, i + 1));
  wire.send(Buffer.concat([connectFrame(), pingFrame, ...frames]));
  await until(() => acknowledged(wire).length === 1_500);
  // [MQTT-3.2.0-1]: CONNACK is the first.
  expect(wire.received[0]).toEqual(Buffer.of(0x20, 2, 0, 0));
  expect(acknowledged(wire)).toEqual(Array.from({ length: 1_500 }, (_, i) => i + 1));
  await wire.end();
});

test("while commits are held, messages wait in bounds, PINGREQ is answered, and all are acknowledged in order after it", async () => {
  const wire = await openDevice({ keepAlive: 1 });
  const waits = gateway.app.counters.get("mqtt.inflight_waits");
  const release = holdCommits();
  for (let i = 0; i < 300; i++) {
    wire.send(publishFrame("lambdaiot", reading(30_000 + i), 1, i + 1));
    await new Promise(setImmediate); // one segment each
  }
  // Longer than one and a half times the keep-alive, with a PINGREQ as it promised.
  for (let i = 0; i < 3; i++) {
    wire.received.length = 0;
    wire.send(pingFrame);
    await wire.next(0xd0);
    await sleep(700);
  }
  expect(acknowledged(wire)).toEqual([]);
  expect(gateway.app.counters.get("mqtt.inflight_waits")).toBe(waits + 1);
  release();
  await until(() => acknowledged(wire).length === 300);
  expect(acknowledged(wire)).toEqual(Array.from({ length: 300 }, (_, i) => i + 1));
  expect(storedValues(30_000, 30_299)).toHaveLength(300);
  await wire.end();
});

test("what a client said before it left is heard, also where it had to wait", async () => {
  const wire = await openDevice();
  const release = holdCommits();
  for (let i = 0; i < 300; i++) wire.send(publishFrame("lambdaiot", reading(40_000 + i), 1, i + 1));
  wire.send(publishFrame("lambdaiot", reading(40_300)), disconnectFrame);
  wire.socket.end();
  await wire.closed;
  release();
  expect(await until(() => storedValues(40_000, 40_300).length === 301)).toBe(true);
});

test("a client that sends more than may wait is slowed down, and gets all its acknowledgements", async () => {
  const wire = await openDevice();
  const release = holdCommits();
  const padding = " ".repeat(1_000);
  for (let i = 0; i < 2_000; i++) wire.send(publishFrame("lambdaiot", reading(50_000 + i) + padding, 1, i + 1));
  await sleep(300);
  release();
  await until(() => acknowledged(wire).length === 2_000);
  expect(acknowledged(wire)).toEqual(Array.from({ length: 2_000 }, (_, i) => i + 1));
  await wire.end();
});

test("two PUBRELs for one message in one segment are both answered", async () => {
  const wire = await openClient(gateway.mqttUrl);
  wire.send(publishFrame("elsewhere", "x", 2, 7));
  await wire.next(0x50);
  wire.send(Buffer.concat([idFrame(0x62, 7), idFrame(0x62, 7), pingFrame]));
  await wire.next(0xd0);
  const answers = () => wire.received.filter((packet) => packet[0] === 0x70);
  await until(() => answers().length === 2);
  expect(answers().map(messageIdOf)).toEqual([7, 7]);
  await wire.end();
});

test("names that JavaScript knows are topics, filters and client ids like any other", async () => {
  const names = ["__proto__", "constructor", "hasOwnProperty", "toString"];
  for (const name of names) {
    const wire = await openClient(gateway.mqttUrl, { clientId: name });
    wire.send(subscribeFrame(1, ...names));
    expect(await wire.next(0x90)).toEqual(Buffer.of(0x90, 6, 0, 1, 1, 1, 1, 1));
    wire.send(publishFrame(name, "x"));
    expect((await wire.next(0x30)).subarray(4, -1).toString()).toBe(name);
    wire.send(unsubscribeFrame(2, ...names));
    await wire.next(0xb0);
    await wire.end();
  }
});

test("a client that is silent for longer than it promised is cut off, one that is not stays", async () => {
  const before = count("keepalive_timeout");
  const silent = await openClient(gateway.mqttUrl, { keepAlive: 1, will: { topic: "gone", payload: "silent" } });
  const lively = await openClient(gateway.mqttUrl, { keepAlive: 1 });
  const witness = await openClient(gateway.mqttUrl);
  witness.send(subscribeFrame(1, "gone"));
  const pings = setInterval(() => lively.send(pingFrame), 300);
  await silent.closed;
  await witness.next(0x30);
  clearInterval(pings);
  expect(lively.isClosed()).toBe(false);
  expect(count("keepalive_timeout")).toBe(before + 1);
  await Promise.all([lively.end(), witness.end()]);
});
