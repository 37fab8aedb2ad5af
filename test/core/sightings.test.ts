import { afterEach, beforeEach, expect, test } from "vitest";
import type { Ctx } from "../../src/core/ctx.ts";
import { deleteDevice, getDevice, listCheckedDevices, noteMessage, type Device } from "../../src/core/devices.ts";
import { createReading, recordReading } from "../../src/core/readings.ts";
import { areSightingsUnsaved, saveSightings } from "../../src/core/sightings.ts";
import { addComponent, addDevice, openTestStore, start, type TestStore } from "../support/store.ts";

let t: TestStore;
let device: Device;
beforeEach(async () => {
  t = openTestStore();
  device = await t.commit((ctx) => addDevice(ctx));
});
afterEach(() => t.close());

const see = (ctx: Ctx, { id } = device): void => noteMessage(ctx, getDevice(ctx, id));
const seenAt = ({ id } = device): number | null => t.read((ctx) => getDevice(ctx, id)).lastSeenAt;
/** As another program would read it in the store's file, by device. */
const saved = (): (number | null)[] =>
  t.store.db.$client.prepare<[], number | null>("SELECT last_seen_at FROM devices ORDER BY pk").pluck().all();
const save = () => t.commit((ctx) => saveSightings(ctx, 0, 100));

/** Seen before, which is saved, and again five seconds later. */
async function seeAgain(...devices: Device[]): Promise<number> {
  await t.commit((ctx) => devices.forEach((one) => see(ctx, one)));
  t.clock.at += 5_000;
  await t.commit((ctx) => devices.forEach((one) => see(ctx, one)));
  return t.clock.at;
}

test("when a device was last seen is known at once, and in the store once it is saved", async () => {
  const later = await seeAgain(device);
  expect([seenAt(), saved()]).toEqual([later, [start]]);
  expect(await save()).toBeUndefined();
  expect([seenAt(), saved()]).toEqual([later, [later]]);
  expect(t.read(areSightingsUnsaved)).toBe(false);
});

test("that a device was seen at all is in the store at once", async () => {
  await t.commit(see);
  expect([seenAt(), saved()]).toEqual([start, [start]]);
  expect(t.read(areSightingsUnsaved)).toBe(false);
});

test("what was seen later goes before what is saved, by a clock that was set back too", async () => {
  await t.commit(see);
  await save();
  for (const at of [start + 5_000, start - 3_600_000]) {
    t.clock.at = at;
    await t.commit(see);
    expect(seenAt()).toBe(at);
    expect(t.read(listCheckedDevices)[0]?.lastSeenAt).toBe(at);
  }
  await save();
  expect(saved()).toEqual([start - 3_600_000]);
});

test("a message that is taken back has not been seen", async () => {
  const sensor = await t.commit((ctx) => addComponent(ctx, "sensor", device.id));
  const read = (ctx: Ctx, at: number) => recordReading(ctx, { sensorId: sensor.id, value: 1, valueAt: at });
  const failing = t.commit((ctx) => {
    read(ctx, start);
    throw new Error("changed my mind");
  });
  const other = t.commit((ctx) => addDevice(ctx));
  await expect(failing).rejects.toThrow("changed my mind");
  await other;
  expect(seenAt()).toBeNull();
  // Nor does what is kept in memory of its device have it for seen.
  await t.commit((ctx) => read(ctx, start));
  expect(seenAt()).toBe(start);
});

test("a save that is taken back leaves what it would have saved", async () => {
  const later = await seeAgain(device);
  const failing = t.commit((ctx) => {
    saveSightings(ctx, 0, 100);
    throw new Error("changed my mind");
  });
  await expect(failing).rejects.toThrow("changed my mind");
  expect([seenAt(), saved()]).toEqual([later, [start]]);
  await save();
  expect(saved()).toEqual([later]);
});

test("a device that is gone takes it along, and its successor has not been seen", async () => {
  await seeAgain(device);
  await t.commit((ctx) => deleteDevice(ctx, device.id));
  const next = await t.commit((ctx) => addDevice(ctx));
  expect(seenAt(next)).toBeNull();
  await save();
  expect(saved()).toEqual([null]);
  expect(t.read(areSightingsUnsaved)).toBe(false);
});

test("many are saved a few at a time, those that were seen", async () => {
  const more = await t.commit((ctx) => Array.from({ length: 9 }, () => addDevice(ctx)));
  const later = await seeAgain(...more.filter((_, i) => i % 2 === 0));
  const steps: number[][] = [];
  for (let afterPk: number | undefined = 0; afterPk !== undefined;) {
    const from: number = afterPk;
    afterPk = await t.commit((ctx) => saveSightings(ctx, from, 2));
    steps.push(saved().flatMap((at, i) => (at === later ? [i] : [])));
  }
  expect(steps).toEqual([
    [1, 3],
    [1, 3, 5, 7],
    [1, 3, 5, 7, 9],
  ]);
});

test("that a device was seen writes nothing to the log; its reading does, a page", async () => {
  const sensor = await t.commit((ctx) => addComponent(ctx, "sensor", device.id));
  await t.commit((ctx) => createReading(ctx, { sensorId: sensor.id, value: 1, valueAt: start }));
  await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 2, valueAt: start }));
  const frames = (): number => (t.store.db.$client.pragma("wal_checkpoint(NOOP)") as [{ log: number }])[0].log;
  const written = async (valueAt: number): Promise<number> => {
    const before = frames();
    t.clock.at += 10_000;
    await t.commit((ctx) => recordReading(ctx, { sensorId: sensor.id, value: 1, valueAt }));
    expect(seenAt()).toBe(t.clock.at);
    return frames() - before;
  };
  expect(await written(start)).toBe(0); // sent again
  expect(await written(start + 1)).toBe(1);
});
