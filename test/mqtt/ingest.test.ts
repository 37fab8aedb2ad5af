import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Ctx } from "../../src/core/ctx.ts";
import { listComponents } from "../../src/core/components.ts";
import { getDevice, listDevices } from "../../src/core/devices.ts";
import { anyone } from "../../src/core/identities.ts";
import { listReadings } from "../../src/core/readings.ts";
import type { Speaker } from "../../src/mqtt/acl.ts";
import { createIngest, type InboundPublish, type Spoken } from "../../src/mqtt/ingest.ts";
import { addComponent, addDevice, openTestStore, start, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

let t: TestStore;
let ingest: (speaker: Speaker, packet: InboundPublish) => Promise<Spoken> | undefined;
let sensor_id: string;
beforeEach(async () => {
  t = openTestStore();
  ingest = open();
  sensor_id = (await t.commit((ctx) => addComponent(ctx, "sensor"))).id;
});
afterEach(() => t.close());

function open(): typeof ingest {
  const take = createIngest({
    domain: t.domain,
    log: t.log,
    counters: t.counters,
    now: () => t.clock.at,
    topic: "lambdaiot",
    maxPayloadBytes: 1_024,
    maxDevices: 2,
    resendWindow: 256,
  });
  return (by, sent) => {
    let isAwaited = false;
    const settled = new Promise<Spoken>((resolve, reject) => {
      isAwaited = take(by, sent, (error, spoken) => {
        if (error === null) resolve(spoken);
        else reject(error);
      });
    });
    return isAwaited ? settled : undefined;
  };
}

const speaker = (clientId: string): Speaker => ({ identity: anyone, clientId, username: "" });
const client = speaker("client");
const other = speaker("other");
const unknown = "550e8400-e29b-41d4-a716-446655440000";
const packet = (body: unknown, more: Partial<InboundPublish> = {}): InboundPublish => ({
  topic: "lambdaiot",
  payload: Buffer.from(typeof body === "string" ? body : JSON.stringify(body)),
  qos: 1,
  dup: false,
  messageId: 1,
  ...more,
});
const reading = (value: unknown, more: object = {}) => ({ type: "sensor_reading", sensor_id, value, ...more });
const list = () => t.read((ctx: Ctx) => runToEnd(listReadings(ctx, { limit: 100, offset: 0 })));
const counts = () =>
  Object.fromEntries(Object.entries(t.counters.snapshot()).filter(([name]) => name.startsWith("mqtt.")));

describe("a reading", () => {
  test("is stored when its promise settles", async () => {
    const taken = ingest(client, packet(reading("21.5")));
    expect(list()).toEqual([]);
    await taken;
    expect(list()).toMatchObject([{ sensorId: sensor_id, value: 21.5, valueAt: start }]);
    expect(counts()).toEqual({ "mqtt.readings": 1 });
  });

  test.each([
    ["without a time", {}, 1],
    ["without a time, QoS 0", {}, undefined],
    ["with its time", { value_at: "2026-01-14T09:00:00Z" }, 1],
  ])("of an unknown sensor, %s, is acknowledged, counted and logged", async (_, more, messageId) => {
    await ingest(client, packet(reading(1, { ...more, sensor_id: unknown }), { messageId }));
    expect(counts()).toEqual({ "mqtt.rejected.unknown_sensor": 1 });
    expect(t.logged()).toContain(`reason=unknown_sensor detail=${unknown} client=client`);
    expect(list()).toEqual([]);
  });

  test("that comes again is one reading: by its time, or by the DUP flag", async () => {
    const timed = reading(1, { value_at: "2026-01-14T09:00:00Z" });
    await ingest(client, packet(timed));
    await ingest(client, packet(timed, { messageId: 2 }));
    await ingest(other, packet(timed, { dup: true, messageId: 3 }));
    await ingest(client, packet(reading(2), { messageId: 4 }));
    await ingest(client, packet(reading(2), { messageId: 4, dup: true }));
    expect(list().map(({ value }) => value)).toEqual([2, 1]);
    expect(counts()).toEqual({ "mqtt.readings": 2, "mqtt.resends": 3 });
  });

  test("that comes again after a restart is one reading", async () => {
    await ingest(client, packet(reading(2), { messageId: 4 }));
    await t.reopen();
    ingest = open();
    await ingest(client, packet(reading(2), { messageId: 4, dup: true }));
    expect(list()).toHaveLength(1);
  });

  test("without a time and without the DUP flag is another one each time", async () => {
    await Promise.all([
      ingest(client, packet(reading(2))),
      ingest(client, packet(reading(2))),
      ingest(client, packet(reading(2), { messageId: undefined, qos: 0 })),
      ingest(other, packet(reading(2), { dup: true })),
    ]);
    expect(list()).toHaveLength(4);
  });

  test("from a clock more than a day ahead gets the gateway's time, and is counted", async () => {
    await ingest(client, packet(reading(1, { value_at: "2026-01-15T10:00:00Z" })));
    await ingest(client, packet(reading(2, { value_at: "2026-01-15T10:00:00.001Z" }), { messageId: 2 }));
    expect(list()).toMatchObject([
      { value: 1, valueAt: start + 86_400_000 },
      { value: 2, valueAt: start },
    ]);
    expect(counts()).toEqual({ "mqtt.readings": 2, "mqtt.clock_ahead": 1 });
  });

  test("that the store does not take is not acknowledged", async () => {
    await t.store.writer.close();
    await expect(ingest(client, packet(reading(1)))).rejects.toMatchObject({ code: "unavailable" });
    expect(counts()).toEqual({});
  });

  test("is a sign of its device's life", async () => {
    const lost = await t.commit((ctx) => addDevice(ctx, { statusId: 3 }));
    const { id } = await t.commit((ctx) => addComponent(ctx, "sensor", lost.id));
    await ingest(client, packet(reading(1, { sensor_id: id })));
    expect(t.read((ctx) => getDevice(ctx, lost.id))).toMatchObject({ statusId: 1, lastSeenAt: start });
  });
});

describe("what is not the gateway's, or is wrong, is not waited for", () => {
  test.each([
    ["another topic", packet(reading(1), { topic: "lambdaiot/other" }), {}],
    ["a topic that only begins so", packet(reading(1), { topic: "lambdaiotx" }), {}],
    ["another type", packet({ type: "hello" }), {}],
    ["one of its own", packet({ type: "ping" }), {}],
    ["no JSON", packet("23.7 degrees"), { "mqtt.rejected.not_json": 1 }],
    ["a bad reading", packet({ type: "sensor_reading" }), { "mqtt.rejected.bad_reading": 1 }],
    ["a bad answer", packet({ type: "device_check_response" }), { "mqtt.rejected.bad_response": 1 }],
    ["too many bytes", packet({ type: "sensor_reading", pad: "x".repeat(1_024) }), { "mqtt.rejected.too_large": 1 }],
    ["a bad announcement", packet({}, { topic: "lambdaiot/discovery" }), { "mqtt.rejected.bad_announcement": 1 }],
  ])("%s", (_, inbound, expected) => {
    expect(ingest(client, inbound)).toBeUndefined();
    expect(counts()).toEqual(expected);
  });

  test("bytes up to the limit are read", async () => {
    const bare = Buffer.byteLength(JSON.stringify(reading(1, { pad: "" })));
    await ingest(client, packet(reading(1, { pad: "x".repeat(1_024 - bare) })));
    expect(list()).toHaveLength(1);
    expect(ingest(client, packet(reading(1, { pad: "x".repeat(1_025 - bare) })))).toBeUndefined();
  });
});

describe("an announcement and an answer", () => {
  const discovery = (body: unknown) => packet(body, { topic: "lambdaiot/discovery" });

  test("are stored when their promises settle", async () => {
    await ingest(client, discovery({ mac_address: "aabbccddeeff", sensors: [{}] }));
    const device = t.read(listDevices).at(-1);
    expect(device).toMatchObject({ mac: "aabbccddeeff", statusId: 1 });
    await ingest(client, packet({ type: "device_check_response", device_id: device?.id, status: "pending" }));
    expect(t.read(listDevices).at(-1)?.statusId).toBe(2);
    expect(counts()).toEqual({});
  });

  test("of what is unknown, foreign or too much are counted", async () => {
    await ingest(client, packet({ type: "device_check_response", device_id: unknown, status: "ok" }));
    await ingest(client, discovery({ mac_address: "aabbccddeeff", sensors: [{ id: sensor_id }] }));
    await ingest(client, discovery({ mac_address: "000000000001" }));
    expect(counts()).toEqual({
      "mqtt.rejected.unknown_device": 1,
      "mqtt.foreign_components": 1,
      "mqtt.rejected.too_many_devices": 1,
    });
    expect(t.read(listDevices)).toHaveLength(2);
    expect(t.read((ctx) => listComponents(ctx, "sensor"))).toHaveLength(1);
  });
});
