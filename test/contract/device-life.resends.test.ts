import { once } from "node:events";
import { createConnection } from "node:net";
import Sqlite from "better-sqlite3";
import { generate, parser, type IConnackPacket, type Packet } from "mqtt-packet";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createApi, logIn, until, type Api } from "../support/client.ts";
import { makeFolder, startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// A device that has seen no acknowledgement sends the same packet again, with the DUP flag [MQTT-3.3.1-1]. Client
// libraries do that only after a failure, so the packets are made by hand here.

interface Device {
  /** Sends a PUBLISH to the main topic; resolves with its PUBACK or PUBREC. */
  publish(options: { id: number; body: object; dup?: boolean; qos?: 1 | 2 }): Promise<Packet>;
  /** Resolves with the PUBCOMP. */
  release(id: number): Promise<Packet>;
  /** Gone without a word. */
  vanish(): void;
}

async function connect({ mqttUrl }: LocalGateway, clientId: string): Promise<Device> {
  const { hostname, port } = new URL(mqttUrl);
  const socket = createConnection(Number(port), hostname);
  const incoming = parser({ protocolVersion: 4 });
  const waiting: { isWanted: (packet: Packet) => boolean; resolve: (packet: Packet) => void }[] = [];
  incoming.on("packet", (packet: Packet) => {
    const index = waiting.findIndex(({ isWanted }) => isWanted(packet));
    if (index >= 0) waiting.splice(index, 1)[0]?.resolve(packet);
  });
  socket.on("data", (chunk: Buffer) => incoming.parse(chunk));
  socket.on("error", () => socket.destroy()); // the gateway went first
  await once(socket, "connect");

  const exchange = (packet: Packet, isWanted: (answer: Packet) => boolean): Promise<Packet> => {
    const answer = new Promise<Packet>((resolve) => waiting.push({ isWanted, resolve }));
    socket.write(generate(packet));
    return answer;
  };
  const connack = (await exchange(
    { cmd: "connect", clientId, clean: true, protocolId: "MQTT", protocolVersion: 4, keepalive: 60 },
    ({ cmd }) => cmd === "connack",
  )) as IConnackPacket;
  expect(connack.returnCode).toBe(0);
  return {
    publish: ({ id, body, dup = false, qos = 1 }) =>
      exchange(
        { cmd: "publish", topic: "lambdaiot", payload: JSON.stringify(body), messageId: id, dup, qos, retain: false },
        ({ cmd, messageId }) => cmd === (qos === 1 ? "puback" : "pubrec") && messageId === id,
      ),
    release: (id) =>
      exchange({ cmd: "pubrel", messageId: id }, ({ cmd, messageId }) => cmd === "pubcomp" && messageId === id),
    vanish: () => void socket.destroy(),
  };
}

let folder: ReturnType<typeof makeFolder>;
let gateway: LocalGateway;
let api: Api;
let device_id: string;
let sensor_id: string;

beforeAll(async () => {
  folder = makeFolder();
  gateway = await startLocalGateway({ folder: folder.folder });
  api = await logIn(gateway.url);
  const device = { name: "Room", description: "", location: "", status_id: 1 };
  device_id = (await api("POST", "/devices", device)).body.id;
});
// Each test has a sensor of its own, so that no message of another one is like its.
beforeEach(async () => {
  const fields = { device_id, name: "Door", type: "door", data_type_id: 1 };
  sensor_id = (await api("POST", "/sensors", fields)).body.id;
});
afterAll(async () => {
  await gateway.close();
  folder.remove();
});

async function restart(): Promise<void> {
  await gateway.close();
  gateway = await startLocalGateway({ folder: folder.folder });
  api = createApi(gateway.url, api.token); // the secret is kept in the folder too
}

const reading = (fields: object = {}) => ({ type: "sensor_reading", sensor_id, value: 21, ...fields });
const values = async (): Promise<number[]> =>
  (await api("GET", `/sensor-readings?sensor_id=${sensor_id}`)).body.map(({ value }: { value: number }) => value);

describe.each([1, 2] as const)("a reading without a time, QoS %d", (qos) => {
  test("sent again with the DUP flag is one reading, on the same connection and on the next", async () => {
    const device = await connect(gateway, "door");
    await device.publish({ id: 7, body: reading(), qos });
    await device.publish({ id: 7, body: reading(), qos, dup: true });
    device.vanish();
    const again = await connect(gateway, "door");
    await again.publish({ id: 7, body: reading(), qos, dup: true });
    expect(await values()).toEqual([21]);
    again.vanish();
  });

  test("sent again while the first one still waits for its commit is one reading, and both are acknowledged", async () => {
    const device = await connect(gateway, "door");
    const other = new Sqlite(gateway.storePath); // another program that writes: nothing is committed until it is done
    other.exec("BEGIN IMMEDIATE");
    const first = device.publish({ id: 7, body: reading(), qos });
    const second = device.publish({ id: 7, body: reading(), qos, dup: true });
    const { counters } = gateway.app;
    const tries = counters.get("store.busy");
    await until(() => counters.get("store.busy") >= tries + 3);
    other.exec("COMMIT");
    other.close();
    expect(await Promise.all([first, second])).toHaveLength(2);
    expect(await values()).toEqual([21]);
    device.vanish();
  });

  test("sent again after a restart of the gateway is one reading", async () => {
    const device = await connect(gateway, "door");
    await device.publish({ id: 7, body: reading(), qos });
    device.vanish();
    await restart();
    const again = await connect(gateway, "door");
    await again.publish({ id: 7, body: reading(), qos, dup: true });
    expect(await values()).toEqual([21]);
    again.vanish();
  });

  test("with the DUP flag whose first sending never arrived is stored", async () => {
    const device = await connect(gateway, "door");
    await device.publish({ id: 7, body: reading(), qos, dup: true });
    expect(await values()).toEqual([21]);
    device.vanish();
  });

  test("is a new one without the flag, with another packet identifier, another value or from another device", async () => {
    const device = await connect(gateway, "door");
    const other = await connect(gateway, "window");
    const publish = async (sender: Device, id: number, body: object, dup: boolean): Promise<void> => {
      await sender.publish({ id, body, qos, dup });
      if (qos === 2) await sender.release(id);
    };
    await publish(device, 7, reading(), false);
    await publish(device, 7, reading(), false); // the identifier is free again once the first is acknowledged
    await publish(device, 8, reading(), true);
    await publish(device, 7, reading({ value: 22 }), true);
    await publish(other, 7, reading(), true);
    expect(await values()).toEqual([21, 22, 21, 21, 21]);
    device.vanish();
    other.vanish();
  });
});

test("a time more than 24 hours ahead does not make one message two readings", async () => {
  const device = await connect(gateway, "door");
  const body = reading({ value_at: "2999-01-01T00:00:00Z" });
  await device.publish({ id: 7, body });
  await device.publish({ id: 7, body, dup: true });
  expect(await values()).toEqual([21]);
  device.vanish();
});

test("a reading with a time is the same one under whatever identifier, flag and client, after a restart too", async () => {
  const body = reading({ value_at: "2026-01-14T10:00:00Z" });
  const device = await connect(gateway, "door");
  await device.publish({ id: 1, body });
  await device.publish({ id: 2, body });
  await device.publish({ id: 1, body, dup: true });
  device.vanish();
  await restart();
  const renamed = await connect(gateway, "door-after-reboot");
  await renamed.publish({ id: 1, body, dup: true });
  expect(await values()).toEqual([21]);
  renamed.vanish();
});

test("the exchange of QoS 2 ends, and the identifier is free for the next reading", async () => {
  const device = await connect(gateway, "door");
  for (const value of [1, 2, 3]) {
    await device.publish({ id: 7, body: reading({ value }), qos: 2 });
    expect((await device.release(7)).cmd).toBe("pubcomp");
  }
  expect(await values()).toEqual([3, 2, 1]);
  device.vanish();
});
