import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Component } from "../../src/core/components.ts";
import { sealStep } from "../../src/core/readings.ts";
import { readRollupProgress } from "../../src/core/rollups.ts";
import { completePeriods, isRolledUp, isRollUpDue, rollUp, rollUpStep } from "../../src/core/rounds.ts";
import { addComponent, countRows, openTestStore, start, type TestStore } from "../support/store.ts";

const hourMs = 3_600_000;

let t: TestStore;
let sensor: Component;
async function open(maxRecentReadings?: number): Promise<void> {
  t = openTestStore(maxRecentReadings === undefined ? {} : { maxRecentReadings });
  sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
  await t.commit(completePeriods); // nothing is to be told of yet
}
beforeEach(() => open());
afterEach(() => t.close());

/** One reading after the other, `apartMs` between them. */
const append = (count: number, apartMs = 1, sensorPk = sensor.pk): Promise<void> =>
  t.commit(({ readings }) => {
    for (let i = 0; i < count; i++) readings.append(sensorPk, start + i * apartMs, 1);
  });
const isDue = (wantedUpTo?: number): boolean => t.read((ctx) => isRollUpDue(ctx, wantedUpTo));
const sums = (): number => countRows(t, "rollups");
const query = (sql: string): number => t.store.db.$client.prepare<[], number>(sql).pluck().get() ?? 0;
/** Readings that the sums hold: by hour, and by day. */
const summed = (): number[] =>
  ["3600000", "86400000"].map((width) => query(`SELECT sum(count) FROM rollups WHERE width = ${width}`));

async function rollUpAll(): Promise<number> {
  let steps = 1;
  while (await t.commit((ctx) => rollUpStep(ctx, 10_000))) steps += 1;
  return steps;
}

describe("summing up is due", () => {
  test("when there is enough of it, and not for a reading or two", async () => {
    expect(isDue()).toBe(false);
    await append(8_191);
    expect(isDue()).toBe(false);
    await append(1);
    expect(isDue()).toBe(true);
    await t.commit(rollUp);
    expect(isDue()).toBe(false);
  });

  test("later where they are of many sensors: each has rows of its own", async () => {
    for (let i = 0; i < 49; i++) {
      const { pk } = await t.commit((ctx) => addComponent(ctx, "sensor"));
      await append(200, 1, pk);
    }
    expect(isDue()).toBe(false);
    await append(3_000);
    expect(isDue()).toBe(true);
  });

  test("before what waits in memory is to be sealed", async () => {
    await t.close();
    await open(1_000);
    await append(499);
    expect(isDue()).toBe(false);
    await append(1);
    expect(isDue()).toBe(true);
    await t.commit(rollUp);
    await append(501);
    while (await t.commit((ctx) => sealStep(ctx, 1_000)));
    expect(countRows(t, "blocks")).toBeGreaterThan(0);
  });

  test("when an hour is over", async () => {
    await append(1);
    t.clock.at += hourMs;
    expect(isDue()).toBe(true);
    await t.commit(rollUp);
    expect(isDue()).toBe(false);
    expect(sums()).toBe(2);
  });

  test("when somebody waits for it", async () => {
    await append(1);
    expect([isDue(0), isDue(1)]).toEqual([false, true]);
    await t.commit(rollUp);
    expect(isDue(1)).toBe(false);
  });

  test("when a round has begun, after a restart too", async () => {
    await append(2);
    await t.commit((ctx) => rollUpStep(ctx, 1));
    await t.reopen();
    expect(isDue()).toBe(true);
    await t.commit(rollUp);
    expect(isDue()).toBe(false);
  });
});

test("readings of many hours are summed up a few hours at a time", async () => {
  await append(400, hourMs);
  expect(await rollUpAll()).toBe(3);
  expect(sums()).toBe(400 + 18);
  expect(summed()).toEqual([400, 400]);
});

test("what comes during a round is left to the next one", async () => {
  const other = await t.commit((ctx) => addComponent(ctx, "sensor"));
  await append(2);
  await t.commit((ctx) => rollUpStep(ctx, 1));
  await append(3);
  await append(3, 1, other.pk);
  expect(summed()).toEqual([1, 1]);
  await t.commit((ctx) => rollUpStep(ctx, 10));
  expect(t.read(readRollupProgress).doneTo).toBe(2);
  expect(summed()).toEqual([2, 2]);
  await rollUpAll();
  expect(t.read(isRolledUp)).toBe(true);
  expect(summed()).toEqual([8, 8]);
});

test("an hour that ends during a round is told of by the next one, with all that had come", async () => {
  await append(2);
  await t.commit((ctx) => rollUpStep(ctx, 1));
  await append(1);
  t.clock.at += hourMs;
  const told = (): number => query("SELECT value FROM progress WHERE name = 'completed.hour'");
  await t.commit(rollUp);
  expect(told()).toBe(start);
  expect(isDue()).toBe(true);
  await t.commit(rollUp);
  expect(told()).toBe(start + hourMs);
  expect(t.read(isRolledUp)).toBe(true);
});

test("what is in blocks already, as after a move from an earlier schema, is summed up as well", async () => {
  await t.close();
  await open(100);
  const other = await t.commit((ctx) => addComponent(ctx, "sensor"));
  for (let i = 0; i < 30; i++) {
    await append(70, 1_000);
    await append(70, 1_000, other.pk);
  }
  // Nobody else seals what is not summed up.
  while (await t.commit(({ readings }) => readings.seal(Number.MAX_SAFE_INTEGER, 1_000)));
  expect(t.read(({ readings }) => readings.firstWaitingId())).toBeGreaterThan(2_000);
  await t.commit((ctx) => rollUpStep(ctx, 500));
  expect(summed()).toEqual([500, 500]);
  await append(5, 1_000);
  await rollUpAll();
  expect(t.read(isRolledUp)).toBe(true);
  expect(summed()).toEqual([4_205, 4_205]);
});

test("what is sealed amid a round is not summed up twice", async () => {
  await t.close();
  await open(100);
  const other = await t.commit((ctx) => addComponent(ctx, "sensor"));
  for (let i = 0; i < 5; i++) {
    await append(70);
    await append(70, 1, other.pk);
  }
  await t.commit((ctx) => rollUpStep(ctx, 400));
  while (await t.commit(({ readings }) => readings.seal(Number.MAX_SAFE_INTEGER, 1_000)));
  expect(t.read(({ readings }) => readings.firstWaitingId())).toBeGreaterThan(1);
  await rollUpAll();
  expect(summed()).toEqual([700, 700]);
});
