import { afterEach, expect, test } from "vitest";
import { updateComponent, type Component } from "../../src/core/components.ts";
import { createReading, listReadings } from "../../src/core/readings.ts";
import { isRolledUp } from "../../src/core/rounds.ts";
import { aggregateRange } from "../../src/core/series.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import { startTestRetention } from "../support/retention.ts";
import { startRollup } from "../../src/jobs/rollup.ts";
import { startSeal } from "../../src/jobs/seal.ts";
import { runToEnd } from "../../src/steps.ts";
import { until } from "../support/client.ts";
import { addComponent, countRows, openTestStore, start, type TestStore } from "../support/store.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

let t: TestStore;
let jobs: Job[] = [];
afterEach(async () => {
  for (const job of jobs.toReversed()) await job.stop();
  jobs = [];
  await t.close();
});

async function open(maxRecentReadings = 131_072): Promise<Component> {
  t = openTestStore({ maxRecentReadings });
  const sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
  jobs = [startRollup({ domain: t.domain, bus: t.bus, log: t.log, everyMs: 10 })];
  // The first start tells of no hour.
  await until(() => countRows(t, "progress") > 0);
  return sensor;
}
const add = ({ id: sensorId }: Component, valueAt: number): Promise<unknown> =>
  t.commit((ctx) => createReading(ctx, { sensorId, value: 1, valueAt }));
const count = ({ pk: sensorPk }: Component): number =>
  t.read((ctx) => runToEnd(aggregateRange(ctx, { sensorPk }, "count")))[0]?.value ?? 0;

test("sums come with the end of the hour, and are not waited for", async () => {
  const sensor = await open();
  for (let i = 0; i < 100; i++) await add(sensor, start + i);
  expect(count(sensor)).toBe(100);
  expect(countRows(t, "rollups")).toBe(0);
  t.clock.at += hourMs;
  await until(() => countRows(t, "rollups") === 2);
  await until(() => t.read(isRolledUp));
  expect(count(sensor)).toBe(100);
});

test("sealing is not held up, however few readings are to wait in memory", async () => {
  const sensor = await open(1_000);
  jobs.push(startSeal({ domain: t.domain, log: t.log, everyMs: 10 }));
  for (let i = 0; i < 3_000; i += 100)
    await t.commit(({ readings }) => {
      for (let n = i; n < i + 100; n++) readings.append(sensor.pk, start + n, n);
    });
  await until(() => t.read(({ readings }) => readings.lastId() - readings.firstWaitingId()) <= 1_000);
  expect(countRows(t, "blocks")).toBeGreaterThan(0);
  expect(count(sensor)).toBe(3_000);
});

test("what is too old by a limit that was changed goes, though it was in no sum yet", async () => {
  const sensor = await open();
  for (const days of [1, 5]) await add(sensor, start - days * dayMs);
  expect(t.read(isRolledUp)).toBe(false);
  jobs.push(startTestRetention(t, { everyMs: 10 }));
  await t.commit((ctx) => updateComponent(ctx, "sensor", sensor.id, { retentionDays: 2 }));
  await until(() => t.read((ctx) => runToEnd(listReadings(ctx, { limit: 10, offset: 0 }))).length === 1);
  expect(count(sensor)).toBe(2);
});
