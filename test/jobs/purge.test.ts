import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { deleteComponent } from "../../src/core/components.ts";
import { deleteDevice } from "../../src/core/devices.ts";
import { createReading, listReadings } from "../../src/core/readings.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import { startPurge } from "../../src/jobs/purge.ts";
import { until } from "../support/client.ts";
import { addComponent, countReadings, countRows, openTestStore, start, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

let t: TestStore;
let job: Job | undefined;
beforeEach(() => (t = openTestStore()) && undefined);
afterEach(async () => {
  await job?.stop();
  job = undefined;
  await t.close();
});

const run = () => (job = startPurge({ domain: t.domain, bus: t.bus, log: t.log }));
const rows = () => countReadings(t) + countRows(t, "purges");
const makeSensor = async (readings: number) => {
  const sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
  await t.commit((ctx) => {
    for (let i = 0; i < readings; i++) createReading(ctx, { sensorId: sensor.id, value: i, valueAt: start - i });
  });
  return sensor;
};
const list = () => t.read((ctx) => runToEnd(listReadings(ctx, { limit: 1_000, offset: 0 })));

describe("the purge", () => {
  test("removes the rows of a deleted device, and nothing else", async () => {
    run();
    const [gone, kept] = [await makeSensor(1_800), await makeSensor(3)];
    await t.commit((ctx) => deleteDevice(ctx, gone.deviceId));
    expect(list().map(({ sensorId }) => sensorId)).toEqual(Array(3).fill(kept.id));
    await until(() => rows() === 3);
    expect(list()).toHaveLength(3);
  });

  test("lets others write between its steps", async () => {
    const gone = await makeSensor(3_000);
    const kept = await makeSensor(0);
    run();
    await t.commit((ctx) => deleteDevice(ctx, gone.deviceId));
    const before = countReadings(t);
    await t.commit((ctx) => createReading(ctx, { sensorId: kept.id, value: 1 }));
    expect(countReadings(t)).toBeGreaterThan(before / 2);
    await until(() => rows() === 1);
    expect(list()).toHaveLength(1);
  });

  test("goes on after a restart where it was", async () => {
    const gone = await makeSensor(3_000);
    run();
    await t.commit((ctx) => deleteComponent(ctx, "sensor", gone.id));
    await until(() => countReadings(t) < 3_000);
    await job?.stop();
    const left = rows();
    expect(left).toBeGreaterThan(1);
    await t.reopen();
    expect(rows()).toBe(left);
    expect(list()).toEqual([]);
    run();
    await until(() => rows() === 0);
  });

  test("sees a deletion that shares the commit of a step that found nothing", async () => {
    const sensors = [await makeSensor(1), await makeSensor(1)];
    // Its first step, and then its last one, stand in line just before a deletion.
    for (const { id } of sensors) {
      run();
      await t.commit((ctx) => deleteComponent(ctx, "sensor", id));
      await until(() => rows() === list().length);
      await job?.stop();
    }
    expect(rows()).toBe(0);
  });

  test("takes up what was deleted while it did not run, and what is deleted while it does", async () => {
    const sensors = [await makeSensor(700), await makeSensor(700), await makeSensor(10)];
    const remove = (i: number) => t.commit((ctx) => deleteComponent(ctx, "sensor", sensors[i]?.id ?? ""));
    await remove(0);
    run();
    await remove(1);
    await until(() => rows() === 10);
    expect(list()).toHaveLength(10);
    await remove(2);
    await until(() => rows() === 0);
  });

  test("stops in the middle, and does not start again", async () => {
    const [first, second] = [await makeSensor(3_000), await makeSensor(10)];
    const stopped = run();
    await t.commit((ctx) => deleteComponent(ctx, "sensor", first.id));
    await stopped.stop();
    const left = rows();
    await t.commit((ctx) => deleteComponent(ctx, "sensor", second.id));
    for (let i = 0; i < 5; i++) await t.commit(() => undefined);
    expect(left).toBeGreaterThan(10);
    expect(rows()).toBe(left + 1);
  });

  test("that fails says so, and is no fault", async () => {
    const gone = await makeSensor(10);
    await t.commit((ctx) => deleteComponent(ctx, "sensor", gone.id));
    t.store.db.$client.exec("CREATE TRIGGER keep BEFORE UPDATE ON arrivals BEGIN SELECT raise(ABORT, 'stuck'); END");
    run();
    await until(() => t.logged().includes("removing the readings of deleted sensors failed"));
    expect(t.logged()).toContain("error=stuck");
    // Its wait until the next try does not hold up the end.
    await job?.stop();
    t.store.db.$client.exec("DROP TRIGGER keep");
    run();
    await until(() => rows() === 0);
  });
});
