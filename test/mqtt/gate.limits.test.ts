import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createCounters, type counterTable } from "../../src/counters.ts";
import { createLog } from "../../src/log.ts";
import { createGate } from "../../src/mqtt/gate.ts";
import { connectMqtt, until } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { connectFrame, idFrame, messageIdOf, openClient, openWire, publishFrame } from "./gate-wire.ts";

// How many connections there may be, and how long they may take to say who they are.

let gateway: LocalGateway;
beforeAll(async () => {
  gateway = await startLocalGateway({
    env: { LAMBDAIOT_MQTT_MAX_CONNECTIONS_PER_ADDRESS: "60", LAMBDAIOT_MQTT_CONNECT_TIMEOUT: "1" },
  });
});
afterAll(() => gateway.close());

type Reason = keyof (typeof counterTable)["mqtt.gate"]["reasons"];
const count = (reason: Reason): number => gateway.app.counters.get(`mqtt.gate.${reason}`);

test("connections that never say CONNECT are closed, whether they are silent or slow", async () => {
  const wires = await Promise.all(Array.from({ length: 50 }, () => openWire(gateway.mqttUrl)));
  const connect = connectFrame({ clientId: "slow" });
  for (const [i, wire] of wires.entries()) if (i % 2 === 0) wire.send(connect.subarray(0, 1 + (i % 10)));
  await Promise.all(wires.map(({ closed }) => closed));
  expect(count("connect_timeout")).toBe(50);
  // Sampled: nobody fills the disk with lines like this.
  expect(gateway.log().match(/ warn .*connect_timeout/g)).toHaveLength(1);
});

test("one address has so many connections and no more, over TCP and WebSocket together, and those it closes are free again", async () => {
  const clients = await Promise.all(
    Array.from({ length: 59 }, (_, i) => openClient(gateway.mqttUrl, { clientId: `c${i}` })),
  );
  const web = await connectMqtt(`${gateway.url.replace("http", "ws")}/mqtt`);
  const tooMany = await Promise.all(Array.from({ length: 5 }, () => openWire(gateway.mqttUrl)));
  for (const wire of tooMany) {
    await wire.closed;
    expect(wire.received).toEqual([]);
  }
  expect(count("address_full")).toBe(5);
  await expect(connectMqtt(`${gateway.url.replace("http", "ws")}/mqtt`)).rejects.toThrow(/./);
  await web.endAsync();
  await Promise.all(clients.map((wire) => wire.end()));
  const again = await Promise.all(Array.from({ length: 55 }, () => openClient(gateway.mqttUrl)));
  await Promise.all(again.map((wire) => wire.end()));
});

test("no more messages than the cap go on without an acknowledgement, at QoS 1 and 2, and QoS 0 behind them keeps its place", async () => {
  const counters = createCounters();
  const gate = createGate({
    log: createLog({ level: "error", write: () => undefined }),
    counters,
    maxConnectBytes: 4_096,
    maxPacketBytes: 65_536,
    maxInFlight: 20,
    connectTimeoutMs: 10_000,
    maxConnectionsPerAddress: 1,
    trustedProxies: [],
    maxUnreadBytes: 1_048_576,
    maxUnreadBytesTotal: 1_048_576,
    drainTimeoutMs: 5_000,
  });
  /** What stands where Aedes does: it acknowledges when it is told to. */
  const accepted: string[] = [];
  let broker: Duplex | undefined;
  const server = createServer((socket) => {
    const connection = (broker = gate.admitSocket(socket) as Duplex);
    connection.on("error", () => undefined);
    connection.on("readable", () => {
      const bytes = (connection.read() ?? Buffer.alloc(0)) as Buffer;
      for (let at = 0; at < bytes.length; at += 2 + (bytes[at + 1] as number)) {
        const end = at + 2 + (bytes[at + 1] as number);
        if (bytes[at] === 0x10) connection.write(Buffer.of(0x20, 2, 0, 0));
        else accepted.push(bytes.subarray(end - 3, end).toString());
      }
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const wire = await openClient(`mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const names = Array.from({ length: 100 }, (_, i) => String(i).padStart(3, "0"));
  const qosOf = (i: number): 0 | 1 | 2 => (i % 10 === 5 ? 0 : i % 2 === 0 ? 1 : 2);
  for (const [i, name] of names.entries()) {
    wire.send(publishFrame("t", name, qosOf(i), i + 1));
    await new Promise(setImmediate);
  }
  await until(() => counters.get("mqtt.inflight_waits") > 0);
  const inFlight = (): number => accepted.filter((name) => qosOf(Number(name)) > 0).length;
  let most = 0;
  for (const [i] of names.entries()) {
    if (qosOf(i) === 0) continue;
    await until(() => accepted.length > i);
    most = Math.max(most, inFlight() - messagesBefore(i));
    // In two pieces, as an acknowledgement may go out.
    const answer = idFrame(qosOf(i) === 1 ? 0x40 : 0x50, i + 1);
    broker?.write(answer.subarray(0, 1));
    broker?.write(answer.subarray(1));
  }
  /** Messages that had been acknowledged before the one at `index`. */
  function messagesBefore(index: number): number {
    return names.slice(0, index).filter((_, i) => qosOf(i) > 0).length;
  }
  await until(() => accepted.length === 100);
  expect(accepted).toEqual(names);
  expect(most).toBe(20);
  await until(() => wire.received.filter((packet) => packet[0] !== 0x20).length === 90);
  expect(wire.received.slice(1).map((packet) => messageIdOf(packet) - 1)).toEqual(
    names.map(Number).filter((i) => qosOf(i) > 0),
  );
  await wire.end();
  server.close();
});
