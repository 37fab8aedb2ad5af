import { once } from "node:events";
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from "node:net";
import { createRequire } from "node:module";
import { Aedes, type AedesOptions } from "aedes";
import Sqlite from "better-sqlite3";
import { afterEach, describe, expect, test } from "vitest";
import { anyone } from "../../src/core/identities.ts";
import { startBroker, type BrokerOptions } from "../../src/mqtt/broker.ts";
import { createGate } from "../../src/mqtt/gate.ts";
import { connectMqtt, logIn, until } from "../support/client.ts";
import type { LocalGateway } from "../support/gateway.ts";
import {
  connectFrame,
  frame,
  idFrame,
  openClient,
  openWire,
  publishFrame,
  subscribeFrame,
  type Wire,
} from "./gate-wire.ts";
import { countRows, type TestStore } from "../support/store.ts";
import { cleanUp, connect, counter, listen, openPersistence, start } from "./kit.ts";

// What Aedes 1.2.0 does by itself, each point with what the gateway does instead. Where it is cheap, the fault is shown
// on an Aedes without our part ("alone"), so that a version that has mended it tells us. The tests of points that are not
// here, by what they are about:
//
// When an acknowledgement is sent
//   a message whose sender has left is stored and known when it comes again   gate.test "what a client said before it left
//                                                                             is heard", ingest.test "that comes again is
//                                                                             one reading"
//   acknowledgements in order while commits are held; back-pressure of held   gate.test "while commits are held, messages
//   messages; PINGREQ behind them                                             wait in bounds …", gate.limits.test "no more
//                                                                             messages than the cap …"
//   a bad message is acknowledged and counted                                 hostile/mqtt.test "a bad message is …"
//   one bad row does not fail its batch                                       store/writer.test "a work that fails harms …"
//   a will that is a reading is not stored                                    hostile/mqtt.test "a will that is a reading …"
//   the acknowledgement comes after the disk has it                           durability/sync-order.test
// Messages that get lost
//   of a mix of QoS 0, 1 and 2 all of QoS 1 and 2 arrives                     sessions.test "of a mix of QoS 0, 1 and 2 …"
// Who may do what
//   a denied subscription is not stored                                       below, and sessions.test "a denied …"
//   what is filtered out costs nobody a message or the connection             sessions.test "what a client may not hear …"
//   $SYS is written by nobody and read by administrators                      identities.test "what is forbidden …",
//                                                                             "subscribes to everything …"
//   a will's topic is a topic, and one's own to publish to                    gate.test "a connection is closed at once",
//                                                                             identities.test "leaves a will …"
//   a client id that another one holds is not taken over                      identities.test "takes the other's client id …"
//   devices hear what is meant for them                                       identities.test "hears the other's commands …"
// Limits
//   packet size, UTF-8, NUL, wildcards in topics, MQTT 5                      gate.test "a connection is closed at once"
//   who says nothing; connections of one address                              gate.limits.test
//   packets behind a CONNECT                                                  gate.test "a client that does not wait …"
//   queue, retained messages, sessions, subscriptions                         sessions.test "… its limit …", persistence.test
//   QoS 2 messages without PUBREL                                             below, and persistence.test "QoS 2 messages …"
//   each topic of a SUBSCRIBE is written once                                 persistence.test "subscriptions, of which …"
//   message identifiers that are in use                                       sessions.test "a new message does not get …"
//   memory, however much is sent for who is away                              durability/broker-state.test
//   the order in which the gateway stops                                      durability/shutdown.test
// What later versions mended
//   names that JavaScript knows; two PUBRELs in one segment                   gate.test, of those names
// Persistence
//   Aedes' own tests                                                          persistence.suite.test
//   reopened after SIGKILL                                                    durability/sessions.test, broker-state.test
//   setup is an async function in the bundle too                              smoke/bundle.test: it would not start

afterEach(cleanUp);

/** An Aedes without our part, on a port of its own. */
async function startAlone(
  options: AedesOptions = {},
): Promise<{ aedes: Aedes; url: string; end: () => Promise<void> }> {
  const aedes = await Aedes.createBroker(options);
  const server = createServer((socket) => void aedes.handle(socket)).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    aedes,
    url: `mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async end() {
      server.close();
      await new Promise<void>((resolve) => aedes.close(resolve));
    },
  };
}

/** Aedes' persistence in memory, with a method replaced. */
function openMemory(replace: (memory: Record<string, (...args: never[]) => unknown>) => void): AedesOptions {
  const memory = (createRequire(import.meta.url)("aedes-persistence") as () => Record<string, never>)();
  replace(memory);
  return { persistence: memory };
}

/** Lets every insert into a table fail until the returned function is called. */
function failInserts({ storePath }: LocalGateway, table: string): () => void {
  const sqlite = new Sqlite(storePath, { timeout: 5_000 });
  sqlite.exec(`CREATE TRIGGER fault BEFORE INSERT ON ${table} BEGIN SELECT RAISE(ABORT, 'fault'); END`);
  return () => {
    sqlite.exec("DROP TRIGGER fault");
    sqlite.close();
  };
}

const resent = (topic: string, payload: string, qos: 1 | 2, id: number): Buffer => {
  const packet = publishFrame(topic, payload, qos, id);
  packet[0] = (packet[0] as number) | 0x08; // DUP
  return packet;
};

const payloadsOf = (wire: Wire, first: number): string[] =>
  wire.received.filter((packet) => packet[0] === first).map((packet) => packet.subarray(2).toString());

describe("PUBACK comes after what it stands for", () => {
  test("alone: QoS 1 is acknowledged before the published hook, whatever it waits for", async () => {
    let release = (): void => undefined;
    const { url, end } = await startAlone({
      published: (packet, client, done) => (client ? void (release = () => done(null)) : done(null)),
    });
    const wire = await openClient(url);
    wire.send(publishFrame("a", "x", 1, 1));
    // Though nobody has released it.
    expect(await wire.next(0x40)).toEqual(Buffer.of(0x40, 2, 0, 1));
    release();
    await wire.end();
    await end();
  });

  test("ours: a message for a session that cannot be stored is not acknowledged; the sender is cut off, the gateway lives, and the next try gets through", async () => {
    const gateway = await start();
    const { client } = await listen(gateway);
    await client.subscribeAsync("q", { qos: 1 });
    await client.endAsync();
    const mend = failInserts(gateway, "mqtt_queued");
    const wire = await openClient(gateway.mqttUrl);
    wire.send(publishFrame("q", "x", 1, 1));
    await wire.closed;
    expect(payloadsOf(wire, 0x40)).toEqual([]);
    mend();
    const again = await openClient(gateway.mqttUrl);
    again.send(resent("q", "x", 1, 1));
    await again.next(0x40);
    const { heard } = await listen(gateway);
    await until(() => heard.length > 0);
    expect(heard).toEqual(["q x"]);
  });

  test("alone: a persistence that fails is an error of the broker itself, after PUBACK", async () => {
    const { aedes, url, end } = await startAlone(
      openMemory((memory) => void (memory["subscriptionsByTopic"] = () => Promise.reject(new Error("SQLITE_BUSY")))),
    );
    const failed = once(aedes as unknown as NodeJS.EventEmitter, "error");
    const wire = await openClient(url);
    wire.send(publishFrame("a", "x", 1, 1));
    await wire.next(0x40);
    expect(await failed).toMatchObject([{ message: "SQLITE_BUSY" }]);
    await wire.end();
    await end();
  });

  test("ours: a command that cannot be stored for who sleeps is not answered with 202", async () => {
    const gateway = await start();
    const api = await logIn(gateway.url);
    await api("POST", "/v1/devices", { id: "d", name: "d", type: "temperature" });
    const device_id = ((await api("GET", "/devices")).body as { id: string }[])[0]?.id;
    const input = { device_id, name: "a", type: "relay", data_type_id: 1 };
    const actor = (await api("POST", "/actors", input)).body.id as string;
    const { client } = await listen(gateway);
    await client.subscribeAsync("lambdaiot", { qos: 1 });
    await client.endAsync();
    const mend = failInserts(gateway, "mqtt_queued");
    expect((await api("POST", `/actors/${actor}/write`, { action: "set", value: 1 })).status).toBeGreaterThanOrEqual(
      500,
    );
    mend();
    expect((await api("POST", `/actors/${actor}/write`, { action: "set", value: 2 })).status).toBe(202);
  });
});

describe("QoS 2, sent again", () => {
  test("alone: authorizePublish is called for each repetition, before it is known to be one", async () => {
    let calls = 0;
    const count = (): null => {
      calls++;
      return null;
    };
    const { url, end } = await startAlone({ authorizePublish: (_, __, done) => done(count()) });
    const wire = await openClient(url, { clientId: "d", isClean: false });
    wire.send(publishFrame("a", "x", 2, 7));
    await wire.next(0x50);
    wire.received.length = 0;
    wire.send(resent("a", "x", 2, 7));
    await wire.next(0x50);
    expect(calls).toBe(2);
    await wire.end();
    await end();
  });

  test("ours: a reading that is sent again before PUBREL is one reading", async () => {
    const gateway = await start();
    const api = await logIn(gateway.url);
    const wire = await openClient(gateway.mqttUrl, { clientId: "d", isClean: false });
    const sensor_id = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
    const announcement = JSON.stringify({ mac_address: "aabbccddeeff", sensors: [{}] });
    wire.send(publishFrame("lambdaiot/discovery", announcement, 1, 1));
    await wire.next(0x40);
    const reading = JSON.stringify({ type: "sensor_reading", sensor_id, value: 1 });
    wire.send(publishFrame("lambdaiot", reading, 2, 7));
    await wire.next(0x50);
    wire.received.length = 0;
    wire.send(resent("lambdaiot", reading, 2, 7));
    await wire.next(0x50);
    expect((await api("GET", `/sensor-readings?sensor_id=${sensor_id}`)).body).toHaveLength(1);
  });

  test("alone: what the published hook refuses is acknowledged when it comes again, and lost", async () => {
    let refuses = true;
    const { aedes, url, end } = await startAlone({
      published: (packet, client, done) =>
        done(refuses && client !== null && packet.topic === "a" ? new Error("no") : null),
    });
    let taken = 0;
    const wire = await openClient(url, { clientId: "d", isClean: false });
    wire.send(publishFrame("a", "x", 2, 7));
    await wire.closed;
    refuses = false;
    aedes.on("publish", (packet, client) => void (client !== null && packet.topic === "a" && taken++));
    const again = await openClient(url, { clientId: "d", isClean: false });
    again.send(resent("a", "x", 2, 7));
    await again.next(0x50);
    expect(taken).toBe(0);
    await again.end();
    await end();
  });

  test("ours: what could not be stored is taken when it comes again", async () => {
    const gateway = await start();
    const { client, heard } = await listen(gateway);
    await client.subscribeAsync("a", { qos: 2 });
    const mend = failInserts(gateway, "mqtt_incoming");
    const wire = await openClient(gateway.mqttUrl, { clientId: "d", isClean: false });
    wire.send(publishFrame("a", "x", 2, 7));
    await wire.closed;
    expect(payloadsOf(wire, 0x50)).toEqual([]);
    mend();
    const again = await openClient(gateway.mqttUrl, { clientId: "d", isClean: false });
    again.send(resent("a", "x", 2, 7));
    await again.next(0x50);
    again.send(idFrame(0x62, 7));
    await again.next(0x70);
    await until(() => heard.length > 0);
    expect(heard).toEqual(["a x"]);
  });

  test("ours: more messages than allowed without PUBREL end the connection, over connections too; after PUBREL there is room", async () => {
    const gateway = await start({ env: { LAMBDAIOT_MQTT_MAX_UNRELEASED_MESSAGES: "3" } });
    const dial = () => openClient(gateway.mqttUrl, { clientId: "d", isClean: false });
    const first = await dial();
    for (let id = 1; id <= 3; id++) first.send(publishFrame("a", "x", 2, id));
    await until(() => payloadsOf(first, 0x50).length === 3);
    await first.end();
    const second = await dial();
    second.send(publishFrame("a", "x", 2, 4));
    await second.closed;
    expect(payloadsOf(second, 0x50)).toEqual([]);
    const third = await dial();
    third.send(idFrame(0x62, 1));
    await third.next(0x70);
    third.send(publishFrame("a", "x", 2, 4));
    await third.next(0x50);
    expect(counter(gateway, "mqtt.unreleased_refused")).toBe(1);
  });
});

test("alone: with a persistence that answers in a later turn, messages that were acknowledged do not arrive (ours: sessions.test)", async () => {
  const { url, end } = await startAlone(
    openMemory((memory) => {
      const answer = memory["subscriptionsByTopic"] as (topic: string) => Promise<unknown>;
      memory["subscriptionsByTopic"] = async (topic: string) => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        return answer.call(memory, topic);
      };
    }),
  );
  const subscriber = await connectMqtt(url);
  let heard = 0;
  subscriber.on("message", (_, payload) => void (payload.toString() === "1" && heard++));
  await subscriber.subscribeAsync("a", { qos: 1 });
  const publisher = await connectMqtt(url);
  for (let i = 0; i < 20; i++) {
    await publisher.publishAsync("a", "1", { qos: 1 });
    await publisher.publishAsync("a", "0", { qos: 0 });
  }
  // What is published last arrives last.
  const last = new Promise((resolve) =>
    subscriber.on("message", (_, payload) => payload.toString() === "end" && resolve(0)),
  );
  await publisher.publishAsync("a", "end", { qos: 1 });
  await last;
  expect(heard).toBeLessThan(20);
  for (const client of [subscriber, publisher]) client.end(true);
  await end();
});

test("alone: a denied subscription beside one that is granted is stored, and delivers later (ours: sessions.test)", async () => {
  const { url, end } = await startAlone({
    authorizeSubscribe: (_, subscription, done) => done(null, subscription.topic === "secret/#" ? null : subscription),
  });
  const first = await openClient(url, { clientId: "c", isClean: false });
  first.send(subscribeFrame(1, "secret/#", "ok"));
  expect(await first.next(0x90)).toEqual(Buffer.of(0x90, 4, 0, 1, 128, 1));
  await first.end();
  const publisher = await connectMqtt(url);
  await publisher.publishAsync("secret/1", "TOPSECRET", { qos: 1 });
  const again = await openClient(url, { clientId: "c", isClean: false });
  await again.next(0x32, (packet) => packet.includes("TOPSECRET"));
  await again.end();
  publisher.end(true);
  await end();
});

/** A broker of our own parts, but for those that are given. */
async function startParts(
  parts: Partial<BrokerOptions>,
): Promise<{ t: TestStore; url: string; counters: BrokerOptions["counters"] }> {
  const { t, open } = openPersistence();
  const { log, counters, bus } = t;
  const persistence = await open();
  const broker = await startBroker({
    bus,
    ingest: () => false,
    logIn: async () => anyone,
    acl: { canPublish: () => true, canSubscribe: () => true },
    persistence,
    targetOf: () => undefined,
    isForged: () => false,
    isHealthy: () => t.store.isHealthy(),
    gate: createGate({
      log,
      counters,
      maxConnectBytes: 4_096,
      maxPacketBytes: 65_536,
      maxInFlight: 256,
      connectTimeoutMs: 10_000,
      maxConnectionsPerAddress: 100,
      trustedProxies: [],
      maxUnreadBytes: 1e6,
      maxUnreadBytesTotal: 1e6,
      drainTimeoutMs: 5_000,
    }),
    log,
    counters,
    host: "127.0.0.1",
    secure: undefined,
    port: 0,
    topic: "lambdaiot",
    trustedProxies: [],
    maxConnections: 100,
    maxPacketBytes: 65_536,
    maxSubscriptions: 10,
    sysIntervalMs: 0,
    ...parts,
  });
  closing.push(() => broker.close());
  return { t, url: `mqtt://127.0.0.1:${broker.port}`, counters };
}

const closing: (() => Promise<void>)[] = [];
// Before the store is closed.
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

test("ours: a hook that throws is counted, ends the connection that met it, and nobody else's", async () => {
  const fail = (name: string): boolean => {
    if (name.startsWith("boom")) throw new Error("boom");
    return true;
  };
  const { url, counters } = await startParts({
    acl: { canPublish: (_, name) => fail(name), canSubscribe: (_, filter) => fail(filter) },
    targetOf: () => {
      throw new Error("boom");
    },
    logIn: async (_, username) => {
      if (username === "boom") throw new Error("boom");
      return username === "device" ? { kind: "device", id: "d", pk: 1 } : anyone;
    },
  });
  const witness = await openClient(url);
  for (const packet of [publishFrame("boom", "x", 1, 1), subscribeFrame(1, "boom")]) {
    const wire = await openClient(url);
    wire.send(packet);
    await wire.closed;
  }
  const refused = await openWire(url);
  refused.send(connectFrame({ username: "boom", password: "x" }));
  expect((await refused.next(0x20))[3]).toBe(3);
  // One that fails while a message is handed out: it is not for this client.
  const device = await openClient(url, { clientId: "device", username: "device", password: "x" });
  device.send(subscribeFrame(1, "lambdaiot", "free"));
  await device.next(0x90);
  witness.send(publishFrame("lambdaiot", "x", 1, 1), publishFrame("free", "y", 1, 2));
  await device.next(0x32, (packet) => packet.includes("free"));
  expect(payloadsOf(device, 0x32)).toHaveLength(1);
  expect(counters.get("mqtt.hook_errors")).toBeGreaterThanOrEqual(3);
  expect(witness.isClosed()).toBe(false);
});

test("ours: while the store takes no writes, who comes is told so, until it takes one", async () => {
  const { t, url } = await startParts({ isHealthy: () => false });
  const sqlite = t.store.db.$client;
  sqlite.exec("CREATE TEMP TRIGGER fault BEFORE INSERT ON mqtt_sessions BEGIN SELECT RAISE(ABORT, 'fault'); END");
  const dial = async (): Promise<number | undefined> => {
    const wire = await openWire(url);
    wire.send(connectFrame());
    return (await wire.next(0x20))[3];
  };
  expect([await dial(), await dial()]).toEqual([3, 3]);
  sqlite.exec("DROP TRIGGER fault");
  expect(await dial()).toBe(0);
  expect(countRows(t, "mqtt_sessions")).toBe(0);
});

test("ours: a login that does not come to an end is refused in time", async () => {
  const { url } = await startParts({ logIn: () => new Promise(() => undefined), loginTimeoutMs: 50 });
  const wire = await openWire(url);
  wire.send(connectFrame());
  expect(await wire.next(0x20)).toEqual(Buffer.of(0x20, 2, 0, 3));
  await wire.closed;
});

test("ours: a login that what it brought did not outlive is refused", async () => {
  let decide = (): void => undefined;
  const asked = new Promise<void>((resolve) => {
    decide = resolve;
  });
  let answer = (): void => undefined;
  const { t, url } = await startParts({
    logIn: () => {
      decide();
      return new Promise((resolve) => {
        answer = () => resolve({ kind: "user", id: "u", role: "admin" });
      });
    },
  });
  const wire = await openWire(url);
  wire.send(connectFrame());
  await asked;
  t.bus.emit("credentials.revoked", { kind: "user", id: "u" });
  answer();
  expect(await wire.next(0x20)).toEqual(Buffer.of(0x20, 2, 0, 4));
});

describe("no client identifier, and a session to keep [MQTT-3.1.3-8]", () => {
  test("alone: is accepted", async () => {
    const { url, end } = await startAlone();
    const wire = await openClient(url, { isClean: false });
    expect(wire.received[0]).toEqual(Buffer.of(0x20, 2, 0, 0));
    await wire.end();
    await end();
  });

  test("ours: is refused, and the connection is closed and not left open", async () => {
    const gateway = await start();
    const wire = await openWire(gateway.mqttUrl);
    wire.send(connectFrame({ isClean: false }));
    await wire.closed;
    expect(payloadsOf(wire, 0x20).filter((packet) => packet.endsWith("\0"))).toEqual([]);
  });
});

test("alone: bytes that are no UTF-8 are forwarded under a mangled topic (ours: gate.test)", async () => {
  const { url, end } = await startAlone();
  const wire = await openClient(url);
  wire.send(subscribeFrame(1, "#"));
  await wire.next(0x90);
  wire.send(publishFrame(Buffer.of(0x61, 0xff), "x"));
  expect((await wire.next(0x30)).includes("a\uFFFD")).toBe(true);
  await wire.end();
  await end();
});

test("alone: a packet is taken in whatever its size, also before CONNECT (ours: gate.test)", async () => {
  const { aedes, url, end } = await startAlone();
  const socket: Socket = connectTcp(Number(new URL(url).port), "127.0.0.1");
  const closed = once(socket, "close");
  socket.on("error", () => undefined);
  const size = 2 ** 20;
  socket.write(frame(0x30, Buffer.alloc(size)).subarray(0, size)); // all but the end of it
  await until(() => socket.bytesWritten >= size && socket.writableLength === 0);
  expect(socket.destroyed).toBe(false);
  socket.destroy();
  await closed;
  await new Promise<void>((resolve) => aedes.close(resolve));
  await end();
});

describe("what goes to a client again says so [MQTT-3.3.1-1]", () => {
  test.each([1, 2] as const)("ours: QoS %i has DUP the second time, and its identifier again", async (qos) => {
    const gateway = await start();
    const dial = () => openClient(gateway.mqttUrl, { clientId: "c", isClean: false });
    const first = await dial();
    first.send(frame(0x82, Buffer.of(0, 1, 0, 1, 0x61, 2)));
    await first.next(0x90);
    const publisher = await connect(gateway);
    await publisher.publishAsync("a", "x", { qos });
    const sent = await first.next(0x30 | (qos << 1));
    await first.end();
    await publisher.publishAsync("a", "y", { qos });
    const again = await dial();
    const repeated = await again.next(0x38 | (qos << 1));
    expect(repeated.subarray(1)).toEqual(sent.subarray(1));
    expect((await again.next(0x30 | (qos << 1))).at(-1)).toBe("y".charCodeAt(0));
  });
});

test("ours: ten thousand messages that waited arrive, in order", { timeout: 60_000 }, async () => {
  const gateway = await start({ env: { LAMBDAIOT_MQTT_MAX_QUEUED_MESSAGES: "20000" } });
  const { client } = await listen(gateway);
  await client.subscribeAsync("q", { qos: 1 });
  await client.endAsync();
  const publisher = await connect(gateway);
  const sent = Array.from({ length: 10_000 }, (_, i) => `q ${i}`);
  await Promise.all(sent.map((_, i) => publisher.publishAsync("q", `${i}`, { qos: 1 })));
  const { heard } = await listen(gateway);
  await until(() => heard.length >= sent.length, 30_000);
  expect(heard).toEqual(sent);
});
