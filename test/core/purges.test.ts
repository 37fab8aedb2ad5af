import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { deleteComponent } from "../../src/core/components.ts";
import { deleteDevice } from "../../src/core/devices.ts";
import { announceDevice } from "../../src/core/discovery.ts";
import { deriveComponentId, deriveDeviceId } from "../../src/core/ids.ts";
import { purgeStep } from "../../src/core/purges.ts";
import { createReading, deleteReading, getReading, listReadings, updateReading } from "../../src/core/readings.ts";
import {
  addComponent,
  addDevice,
  countReadings,
  countRows,
  openTestStore,
  start,
  type TestStore,
} from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

let t: TestStore;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(() => t.close());

const list = (sensorId?: string) => t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 1_000, offset: 0 })));
const fill = (sensorId: string, count: number) =>
  t.commit((ctx) =>
    Array.from({ length: count }, (_, i) => createReading(ctx, { sensorId, value: i, valueAt: start - i }).id),
  );

describe("the readings of a deleted device", () => {
  test("are out of reach at once, while their rows are still there", async () => {
    const device = await t.commit((ctx) => addDevice(ctx));
    const sensors = await t.commit((ctx) => [
      addComponent(ctx, "sensor", device.id),
      addComponent(ctx, "sensor", device.id),
    ]);
    const kept = await t.commit((ctx) => addComponent(ctx, "sensor"));
    const gone = [...(await fill(sensors[0]?.id ?? "", 5)), ...(await fill(sensors[1]?.id ?? "", 5))];
    await fill(kept.id, 3);
    await t.commit((ctx) => deleteDevice(ctx, device.id));
    expect(countReadings(t)).toBe(13);
    expect(list().map(({ sensorId }) => sensorId)).toEqual([kept.id, kept.id, kept.id]);
    for (const { id } of sensors) expect(list(id)).toEqual([]);
    for (const id of gone) {
      expect(() => t.read((ctx) => getReading(ctx, id))).toThrow("reading not found");
      await expect(t.commit((ctx) => updateReading(ctx, id, { value: 1 }))).rejects.toThrow("reading not found");
      await expect(t.commit((ctx) => deleteReading(ctx, id))).rejects.toThrow("reading not found");
    }
    for (const { id } of sensors)
      await expect(t.commit((ctx) => createReading(ctx, { sensorId: id, value: 1 }))).rejects.toThrow(
        "sensor not found",
      );
  });

  test("are not seen by a new device with the same id", async () => {
    const id = deriveDeviceId("aabbccddeeff");
    const sensorId = deriveComponentId(id, "sensor", 0);
    const announce = () =>
      t.commit((ctx) => announceDevice(ctx, { id, sensors: [{}], actors: [] }, { maxDevices: 10 }));
    await announce();
    const old = await fill(sensorId, 5);
    await t.commit((ctx) => deleteDevice(ctx, id));
    await announce();
    expect(list()).toEqual([]);
    expect(list(sensorId)).toEqual([]);
    // The same instant and value is no resend of what is gone.
    const [reading] = await fill(sensorId, 1);
    expect(old).not.toContain(reading);
    while (await t.commit((ctx) => purgeStep(ctx, 2)));
    expect(list(sensorId).map(({ id }) => id)).toEqual([reading]);
    expect(countReadings(t)).toBe(1);
  });
});

describe("purgeStep", () => {
  test("removes no more than it may at a time, and no other sensor's readings", async () => {
    const [before, gone, after] = await t.commit(
      (ctx) => [addComponent(ctx, "sensor"), addComponent(ctx, "sensor"), addComponent(ctx, "sensor")] as const,
    );
    for (const { id } of [before, gone, after]) await fill(id, id === gone.id ? 25 : 10);
    await t.commit((ctx) => deleteComponent(ctx, "sensor", gone.id));
    const left: number[] = [];
    while (await t.commit((ctx) => purgeStep(ctx, 10))) left.push(countReadings(t));
    expect(left).toEqual([35, 25, 20]);
    expect(countRows(t, "purges")).toBe(0);
    for (const { id } of [before, after]) expect(list(id)).toHaveLength(10);
  });

  test("ends also where the last step removed exactly as many as it may, and where there were none", async () => {
    const [full, empty] = await t.commit((ctx) => [addComponent(ctx, "sensor"), addComponent(ctx, "sensor")] as const);
    await fill(full.id, 20);
    await t.commit((ctx) => {
      deleteComponent(ctx, "sensor", full.id);
      deleteComponent(ctx, "sensor", empty.id);
    });
    let steps = 0;
    while (await t.commit((ctx) => purgeStep(ctx, 10))) steps += 1;
    expect(steps).toBeLessThanOrEqual(4);
    expect(countReadings(t) + countRows(t, "purges")).toBe(0);
  });

  test("has nothing to do where nothing was deleted", async () => {
    const { id } = await t.commit((ctx) => addComponent(ctx, "sensor"));
    await fill(id, 3);
    expect(await t.commit((ctx) => purgeStep(ctx, 10))).toBe(false);
    expect(list(id)).toHaveLength(3);
  });
});
