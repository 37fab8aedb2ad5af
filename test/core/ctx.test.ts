import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findDevice, listDevices, updateDevice } from "../../src/core/devices.ts";
import { DomainError } from "../../src/core/errors.ts";
import { addComponent, addDevice, collect, openTestStore, start, type TestStore } from "../support/store.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

describe("a verb", () => {
  test("gets the clock, the store and who asks", async () => {
    const actor = { kind: "user", id: "1", username: "ana", role: "member" } as const;
    expect(t.domain.read(actor, (ctx) => [ctx.now(), ctx.actor])).toEqual([start, actor]);
    expect(await t.domain.commit(actor, (ctx) => [ctx.now(), ctx.actor])).toEqual([start, actor]);
  });

  test("that only reads may emit nothing", () => {
    expect(() => t.read((ctx) => ctx.emit("sensors.removed", { count: 1 }))).toThrow(/only reads/);
  });

  test("tells its events after the commit, in their order and after those of verbs before it", async () => {
    const told: number[] = [];
    t.bus.on("sensors.removed", ({ count }) => {
      told.push(count);
      // Seen from outside the transaction: the row is there.
      told.push(t.read(listDevices).length);
    });
    const commit = (counts: number[]) =>
      t.commit((ctx) => {
        addDevice(ctx);
        for (const count of counts) ctx.emit("sensors.removed", { count });
        expect(told).toEqual([]);
      });
    await Promise.all([commit([10, 11]), commit([12])]);
    expect(told).toEqual([10, 2, 11, 2, 12, 2]);
  });

  test("that throws writes nothing, tells nothing, and harms no other of its transaction", async () => {
    const told = collect(t.bus, "sensors.removed");
    const attempt = (name: string, isBad: boolean) =>
      t.commit((ctx) => {
        addDevice(ctx, { name });
        ctx.emit("sensors.removed", { count: isBad ? -1 : 1 });
        if (isBad) throw new DomainError("conflict", "no");
        return name;
      });
    const outcomes = await Promise.allSettled([attempt("a", false), attempt("b", true), attempt("c", false)]);
    expect(outcomes).toMatchObject([
      { status: "fulfilled", value: "a" },
      { status: "rejected", reason: { code: "conflict", message: "no" } },
      { status: "fulfilled", value: "c" },
    ]);
    expect(t.read(listDevices).map(({ name }) => name)).toEqual(["a", "c"]);
    // The first of them ran twice; it is told of once.
    expect(told).toEqual([{ count: 1 }, { count: 1 }]);
  });

  test("whose commit fails writes nothing and tells nothing", async () => {
    const { deviceId } = await t.commit((ctx) => addComponent(ctx, "sensor"));
    const told = collect(t.bus, "device.status");
    const failed = t.commit((ctx) => {
      updateDevice(ctx, deviceId, { statusId: 4 });
      // Foreign keys that are checked in COMMIT.
      ctx.db.$client.pragma("defer_foreign_keys = ON");
      ctx.db.$client.prepare("UPDATE sensors SET device_pk = -1").run();
    });
    await expect(failed).rejects.toMatchObject({ code: "unavailable" });
    expect(told).toEqual([]);
    expect(t.read((ctx) => findDevice(ctx, deviceId))?.statusId).toBe(1);
    await t.commit((ctx) => updateDevice(ctx, deviceId, { statusId: 4 }));
    expect(told).toHaveLength(1);
  });

  test("whose listener throws has been committed all the same", async () => {
    t.bus.on("sensors.removed", () => {
      throw new Error("out of order");
    });
    const { id } = await t.commit((ctx) => {
      ctx.emit("sensors.removed", { count: 1 });
      return addDevice(ctx);
    });
    await t.reopen();
    expect(t.read((ctx) => findDevice(ctx, id))?.id).toBe(id);
  });
});
