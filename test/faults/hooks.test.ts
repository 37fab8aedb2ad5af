import { afterEach, beforeEach, expect, test } from "vitest";
import { anyone } from "../../src/core/identities.ts";
import { createAcl } from "../../src/mqtt/acl.ts";
import { startBroker, type Broker } from "../../src/mqtt/broker.ts";
import { createGate } from "../../src/mqtt/gate.ts";
import { createPersistence } from "../../src/mqtt/persistence.ts";
import { connectMqtt, until } from "../support/client.ts";
import { openTestStore, type TestStore } from "../support/store.ts";
import { openClient, openWire, connectFrame, publishFrame, subscribeFrame } from "../mqtt/gate-wire.ts";

// The real broker with parts that fail: what throws or rejects in a hook ends one connection at most, is counted, and is
// never acknowledged. An exception that nobody catches would end this process, and with it the test.

let store: TestStore;
let broker: Broker;
let url = "";
/** Which part fails now, and how. */
let failing = "";
const fail = (part: string): undefined => {
  if (failing === part) throw new Error(`${part} fails`);
};

beforeEach(async () => {
  store = openTestStore();
  failing = "";
  const { domain, log, counters } = store;
  const now = Date.now;
  const acl = createAcl({ topic: "lambdaiot", rules: [] });
  broker = await startBroker({
    bus: store.bus,
    isHealthy: () => true,
    sysIntervalMs: 0,
    ingest: (_, { topic }, done) => {
      if (topic !== "lambdaiot") return false;
      fail("ingest");
      setImmediate(() => done(failing === "ingest later" ? new Error("too late") : null, undefined));
      return true;
    },
    logIn: (_, username) => {
      if (username === "fails") throw new Error("login fails");
      if (username === "fails later") return Promise.reject(new Error("too late"));
      return Promise.resolve(username === "device" ? { kind: "device", id: "d", pk: 1 } : anyone);
    },
    acl: {
      canPublish(...args) {
        fail("canPublish");
        return acl.canPublish(...args);
      },
      canSubscribe(...args) {
        fail("canSubscribe");
        return acl.canSubscribe(...args);
      },
    },
    persistence: createPersistence({
      domain,
      log,
      counters,
      now,
      maxQueued: 100,
      maxQueuedBytes: 1e6,
      maxSessions: 10,
      maxRetained: 10,
      maxRetainedBytes: 1e6,
      maxUnreleased: 100,
      maxUnreleasedTotal: 1_000,
      sessionExpiryMs: 1e9,
      isFor: () => {
        fail("isFor");
        return true;
      },
    }),
    targetOf: () => fail("targetOf") ?? "d",
    isForged: () => {
      fail("isForged");
      return false;
    },
    gate: createGate({
      log,
      counters,
      maxConnectBytes: 4_096,
      maxPacketBytes: 65_536,
      maxInFlight: 20,
      connectTimeoutMs: 10_000,
      maxConnectionsPerAddress: 100,
      trustedProxies: [],
      maxUnreadBytes: 1e6,
      maxUnreadBytesTotal: 1e7,
      drainTimeoutMs: 5_000,
    }),
    log,
    counters,
    host: "127.0.0.1",
    port: 0,
    secure: undefined,
    topic: "lambdaiot",
    trustedProxies: [],
    maxConnections: 100,
    maxPacketBytes: 65_536,
    maxSubscriptions: 50,
  });
  url = `mqtt://127.0.0.1:${broker.port}`;
});
afterEach(async () => {
  await broker.close();
  await store.close();
});

/** Somebody who has nothing to do with it is served as before. */
async function checkOthers(): Promise<void> {
  failing = "";
  const heard: string[] = [];
  const other = await connectMqtt(url);
  other.on("message", (_, payload) => void heard.push(payload.toString()));
  await other.subscribeAsync("others", { qos: 1 });
  await other.publishAsync("others", "here", { qos: 1 });
  await other.publishAsync("lambdaiot", "{}", { qos: 1 });
  await until(() => heard.includes("here"));
  await other.endAsync();
}

test.each([
  ["ingest", 1],
  ["ingest", 2],
  ["ingest later", 1],
  ["ingest later", 2],
  ["canPublish", 1],
] as const)("%s that fails at QoS %d: no acknowledgement, and the connection is closed", async (part, qos) => {
  const wire = await openClient(url, { clientId: "poor" });
  failing = part;
  wire.send(publishFrame("lambdaiot", "{}", qos, 1));
  await wire.closed;
  expect(wire.received.map((packet) => packet[0])).toEqual([0x20]);
  expect(store.counters.get(part === "ingest later" ? "mqtt.client_errors" : "mqtt.hook_errors")).toBeGreaterThan(0);
  await checkOthers();
  // Sent again when the fault is over, it is taken.
  const again = await openClient(url, { clientId: "poor" });
  again.send(publishFrame("lambdaiot", "{}", qos, 1));
  await again.next(qos === 1 ? 0x40 : 0x50);
  await again.end();
});

test("canSubscribe that fails refuses the subscription or closes the connection", async () => {
  const client = await connectMqtt(url);
  client.on("error", () => undefined);
  failing = "canSubscribe";
  await expect(client.subscribeAsync("a", { qos: 1 })).rejects.toThrow(/./);
  expect(store.counters.get("mqtt.hook_errors")).toBe(1);
  client.end(true);
  await checkOthers();
});

test.each(["fails", "fails later"])("a login that %s is a refusal", async (username) => {
  const wire = await openWire(url);
  wire.send(connectFrame({ username, password: "x" }));
  const connack = await wire.next(0x20);
  expect(connack[3]).toBe(3); // not now
  await wire.closed;
  await checkOthers();
});

test("a will that cannot be looked at is a refusal", async () => {
  const wire = await openWire(url);
  failing = "isForged";
  wire.send(connectFrame({ clientId: "w", will: { topic: "lambdaiot", payload: "{}" } }));
  expect((await wire.next(0x20))[3]).not.toBe(0);
  await wire.closed;
  await checkOthers();
});

test("a delivery that cannot be looked at is none; others get theirs", async () => {
  const device = await openClient(url, { clientId: "d", username: "device", password: "x" });
  device.send(subscribeFrame(1, "lambdaiot"));
  await device.next(0x90);
  const heard: string[] = [];
  const user = await connectMqtt(url);
  user.on("message", (_, payload) => void heard.push(payload.toString()));
  await user.subscribeAsync("lambdaiot", { qos: 1 });
  failing = "targetOf";
  await user.publishAsync("lambdaiot", "while it fails", { qos: 1 });
  await until(() => store.counters.get("mqtt.hook_errors") === 1 && heard.length === 1);
  failing = "";
  await user.publishAsync("lambdaiot", "after it", { qos: 1 });
  const message = await device.next(0x32);
  expect(message.toString()).toContain("after it");
  await user.endAsync();
  await device.end();
});

test("queues that cannot be chosen end the publisher's connection without an acknowledgement", async () => {
  const sleeper = await connectMqtt(url, { clientId: "sleeper", clean: false });
  await sleeper.subscribeAsync("kept", { qos: 1 });
  await sleeper.endAsync();
  const wire = await openClient(url);
  failing = "isFor";
  wire.send(publishFrame("kept", "1", 1, 1));
  await wire.closed;
  expect(wire.received.map((packet) => packet[0])).toEqual([0x20]);
  await checkOthers();
});
