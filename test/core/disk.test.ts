import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createDomain, type Domain } from "../../src/core/ctx.ts";
import { createRoom, isRoomChanged, tellRoom } from "../../src/core/disk.ts";
import { createReading, deleteReading, updateReading } from "../../src/core/readings.ts";
import { createWebhook, listDeliveries } from "../../src/core/webhooks.ts";
import { addComponent, collect, countReadings, openTestStore, start, type TestStore } from "../support/store.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

describe("room", () => {
  test("ends below the floor, and begins again with a quarter more", () => {
    const room = createRoom(1_000);
    const isOpen = [1_000, 999, 1_000, 1_249, 1_250, 1_000, 0].map((bytes) => {
      room.note(bytes);
      return room.isOpen();
    });
    expect(isOpen).toEqual([true, false, false, false, true, true, false]);
    expect(room.freeBytes()).toBe(0);
  });

  test("never ends without a floor", () => {
    const room = createRoom(0);
    room.note(0);
    expect(room.isOpen()).toBe(true);
  });
});

describe("without room", () => {
  const system = { kind: "system" } as const;
  let full: Domain;
  let refusals = 0;
  let sensorId = "";
  beforeEach(async () => {
    refusals = 0;
    const { store, bus, log } = t;
    full = createDomain({ store, bus, log, hasRoom: () => false, onRefusal: () => void (refusals += 1) });
    sensorId = (await t.commit((ctx) => addComponent(ctx, "sensor"))).id;
  });

  test("no reading is stored, each that is refused is counted, and what shares its commit is stored", async () => {
    const add = (value: number) => full.commit(system, (ctx) => createReading(ctx, { sensorId, value }));
    const other = full.commit(system, (ctx) => addComponent(ctx, "sensor"));
    const refused = [add(1), add(2)];
    for (const one of refused) await expect(one).rejects.toMatchObject({ code: "unavailable", retryAfterSeconds: 30 });
    await expect(other).resolves.toHaveProperty("id");
    expect(refusals).toBe(2);
    expect(countReadings(t)).toBe(0);
  });

  test("what is stored is known, can be changed and deleted", async () => {
    const reading = { sensorId, value: 1, valueAt: start };
    const { id } = await t.commit((ctx) => createReading(ctx, reading));
    expect(await full.commit(system, (ctx) => createReading(ctx, reading))).toMatchObject({ id, isResend: true });
    await full.commit(system, (ctx) => updateReading(ctx, id, { value: 2 }));
    await full.commit(system, (ctx) => deleteReading(ctx, id));
    expect({ refusals, left: countReadings(t) }).toEqual({ refusals: 0, left: 0 });
  });
});

describe("the alert", () => {
  const state = (hasRoom: boolean) => ({ hasRoom, freeBytes: 10, minFreeBytes: 64 });
  const tell = (hasRoom: boolean) => t.commit((ctx) => tellRoom(ctx, state(hasRoom)));

  test("is told once to webhooks and listeners, also over a restart, and ended once", async () => {
    const input = { url: "http://127.0.0.1:9/", events: ["alert.triggered" as const, "alert.resolved" as const] };
    const { id } = await t.commit((ctx) => createWebhook(ctx, input, { maxWebhooks: 1, maxPending: 10 }));
    await tell(true);
    const heard = collect(t.bus, "alert");
    await tell(false);
    await tell(false);
    expect(heard).toHaveLength(1);
    await t.reopen();
    expect(t.read((ctx) => [isRoomChanged(ctx, false), isRoomChanged(ctx, true)])).toEqual([false, true]);
    await tell(false);
    t.clock.at += 60_000;
    await tell(true);
    await tell(true);
    const { deliveries } = t.read((ctx) => listDeliveries(ctx, id, { limit: 10, offset: 0 }));
    const told = deliveries.map(({ body }) => JSON.parse(body) as { type: string; data: object }).toReversed();
    const data = {
      alertId: `disk-${start}`,
      ruleId: null,
      deviceId: null,
      sensor: null,
      condition: "disk_full",
      threshold: 64,
      severity: "critical",
      value: 10,
      triggeredAt: "2026-01-14T10:00:00Z",
    };
    expect(told).toMatchObject([
      { type: "alert.triggered", data },
      { type: "alert.resolved", data: { ...data, resolvedAt: "2026-01-14T10:01:00Z" } },
    ]);
  });
});
