import * as fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { updateComponent } from "../../src/core/components.ts";
import { getDetail, listSummaries } from "../../src/core/device-list.ts";
import { addExact, roundSum, type ExactSum } from "../../src/core/exact-sum.ts";
import { createBuckets, openZone, utc, type Interval, type Zone } from "../../src/core/intervals.ts";
import { readData } from "../../src/core/points.ts";
import {
  createReading,
  deleteReading,
  getReading,
  listReadings,
  sealStep,
  updateReading,
} from "../../src/core/readings.ts";
import { chooseCut, firstInstant, readDroppedBefore, sweepStep, type Sweep } from "../../src/core/retention.ts";
import { rollupWidths } from "../../src/core/rollups.ts";
import { rollUpStep } from "../../src/core/rounds.ts";
import { aggregations, type Aggregation } from "../../src/core/collected.ts";
import { aggregateRange, aggregateSeries } from "../../src/core/series.ts";
import type { StoredReading } from "../../src/store/readings.ts";
import { addComponent, countReadings, countRows, openTestStore, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

const { hour: hourMs, day: dayMs } = rollupWidths;
const minuteMs = 60_000;

let t: TestStore;
let sensor: { id: string; pk: number; deviceId: string };

/** Noon: what is kept for 90 days began with the day 90 days before, at midnight. */
const now = Date.UTC(2027, 0, 1, 12);
const limit90 = Date.UTC(2026, 9, 3);

beforeEach(async () => {
  t = openTestStore();
  t.clock.at = now;
  sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
});
afterEach(() => t.close());

const policy = { rawDays: 90, rollupDays: 3_650 };
const forEver = { rawDays: 0, rollupDays: 0 };

const add = (value: number, valueAt: number, sensorId = sensor.id): Promise<number> =>
  t.commit((ctx) => createReading(ctx, { sensorId, value, valueAt }).id);

async function rollUpAll(): Promise<void> {
  while (await t.commit((ctx) => rollUpStep(ctx, 5_000)));
}

/** One round. @returns what each step has removed */
async function sweep(given: Partial<Sweep> = {}) {
  const steps: { readings: number; rollups: number }[] = [];
  const options = { policy, before: firstInstant, upToId: Number.MAX_SAFE_INTEGER, ...given };
  for (let afterPk: number | undefined = 0; afterPk !== undefined;) {
    const from: number = afterPk;
    const step = await t.commit((ctx) => sweepStep(ctx, options, from));
    afterPk = step.afterPk;
    steps.push({ readings: step.readings, rollups: step.rollups });
  }
  return steps;
}

/** A reading each minute from `from` on, most of them sealed. */
async function fillMinutes(count: number, from: number, sensorPk = sensor.pk): Promise<void> {
  for (let done = 0; done < count; done += 10_000)
    await t.commit((ctx) => {
      for (let i = done; i < Math.min(count, done + 10_000); i++)
        ctx.readings.append(sensorPk, from + i * minuteMs, Math.round(200 + 50 * Math.sin(i / 200)) / 10);
    });
  await rollUpAll();
  while (await t.commit((ctx) => sealStep(ctx, 20_000)));
}

/** All readings that are kept, whether anybody gets to see them or not. */
function readAll(): StoredReading[] {
  const all: StoredReading[] = [];
  for (let page = t.store.readings.after(0, 10_000); page.length > 0;) {
    for (const reading of page) all.push(reading);
    page = t.store.readings.after(all.at(-1)?.id ?? 0, 10_000);
  }
  return all;
}

/** When the oldest was. */
const firstOf = (readings: readonly StoredReading[]): number =>
  readings.reduce((least, { valueAt }) => Math.min(least, valueAt), Infinity);

const list = (sensorId?: string) => t.read((ctx) => runToEnd(listReadings(ctx, { sensorId, limit: 1_000, offset: 0 })));
const days = (aggregation: Aggregation, interval: Interval = "1d", zone: Zone = utc) =>
  t.read((ctx) => runToEnd(aggregateSeries(ctx, { sensorPk: sensor.pk }, aggregation, interval, zone)));
const whole = (aggregation: Aggregation, range: { from?: number; to?: number } = {}) =>
  t.read((ctx) => runToEnd(aggregateRange(ctx, { sensorPk: sensor.pk, ...range }, aggregation)))[0]?.value;

describe("readings that are too old", () => {
  test("go by whole days, sealed or not, in steps; what is younger stays", async () => {
    await fillMinutes(100 * 24 * 60, now - 100 * dayMs);
    await add(1, limit90 - 1); // in no block yet
    await add(2, limit90);
    await rollUpAll();
    expect(countRows(t, "blocks")).toBeGreaterThan(20);
    const before = { sums: days("sum"), hours: days("max", "1h"), total: whole("count"), all: readAll().length };
    const steps = await sweep();
    const left = readAll();
    expect(firstOf(left)).toBe(limit90);
    // Ten days less the twelve hours since midnight, and the one that came late.
    expect(before.all - left.length).toBe(9.5 * 24 * 60 + 1);
    expect(steps.reduce((sum, { readings }) => sum + readings, 0)).toBe(9.5 * 24 * 60 + 1);
    // Their sums are what they were.
    expect({ sums: days("sum"), hours: days("max", "1h"), total: whole("count"), all: before.all }).toEqual(before);
    // Nothing is left to do.
    expect(await sweep()).toEqual([{ readings: 0, rollups: 0 }]);
    // A day later, a day's more.
    t.clock.at += dayMs;
    await sweep();
    expect(readAll().length).toBe(left.length - 24 * 60 - 1);
    await t.reopen();
    expect(readAll().length).toBe(left.length - 24 * 60 - 1);
    expect(whole("count")).toBe(before.total);
  });

  test("in no block go a few at a time", async () => {
    await t.commit((ctx) => {
      for (let i = 0; i < 1_100; i++) ctx.readings.append(sensor.pk, limit90 - 1 - i, i);
    });
    await rollUpAll();
    const steps = await sweep();
    expect(Math.max(...steps.map(({ readings }) => readings))).toBeLessThanOrEqual(256);
    expect(steps.length).toBeGreaterThan(4);
    expect(countReadings(t)).toBe(0);
  });

  test("are out of reach as soon as the first of them is gone", async () => {
    const ids = await t.commit((ctx) =>
      Array.from({ length: 300 }, (_, i) => ctx.readings.append(sensor.pk, limit90 - (i + 1) * minuteMs, i)),
    );
    const young = await add(5, limit90);
    await rollUpAll();
    const { afterPk } = await t.commit((ctx) => sweepStep(ctx, { policy, before: firstInstant, upToId: young }, 0));
    expect(afterPk).toBe(0); // there is more
    const stays = ids.filter((id) => t.store.readings.get(id) !== undefined);
    expect(stays.length).toBeGreaterThan(10);
    for (const id of stays) {
      expect(() => t.read((ctx) => getReading(ctx, id))).toThrow("reading not found");
      await expect(t.commit((ctx) => updateReading(ctx, id, { value: 1 }))).rejects.toThrow("reading not found");
      await expect(t.commit((ctx) => deleteReading(ctx, id))).rejects.toThrow("reading not found");
    }
    for (const sensorId of [sensor.id, undefined]) expect(list(sensorId).map(({ id }) => id)).toEqual([young]);
    expect(t.read((ctx) => runToEnd(readData(ctx, sensor.deviceId, { zone: utc })))).toMatchObject({
      total: 1,
      points: [{ at: limit90, value: 5 }],
    });
    expect(whole("count")).toBe(301);
  });

  test("are no last reading", async () => {
    await add(1, limit90 - 1);
    await rollUpAll();
    const last = () => t.read((ctx) => getDetail(ctx, sensor.deviceId)).sensors[0]?.lastReading;
    const listed = () =>
      t.read((ctx) => listSummaries(ctx, { limit: 1, offset: 0, hasLastReading: true })).devices[0]?.lastReading;
    expect(last()).toEqual({ at: limit90 - 1, value: 1 });
    expect(listed()).toEqual(last());
    await sweep();
    expect([last(), listed()]).toEqual([undefined, null]);
    await add(2, limit90 - 2); // comes late, and goes with the next round
    expect([last(), listed()]).toEqual([undefined, null]);
    await add(3, limit90);
    expect(last()).toEqual({ at: limit90, value: 3 });
    expect(listed()).toEqual(last());
  });

  test("stay where they are to be kept for ever", async () => {
    await add(1, 0);
    await rollUpAll();
    await sweep({ policy: forEver });
    expect(list()).toHaveLength(1);
  });

  test("stay until the rollups hold them, and until who is to be told has seen them", async () => {
    const first = await add(1, limit90 - 2);
    const second = await add(2, limit90 - 1);
    await sweep();
    expect(countReadings(t)).toBe(2);
    await rollUpAll();
    await sweep({ upToId: first });
    expect(t.store.readings.get(second)).toBeDefined();
    expect(countReadings(t)).toBe(1);
    await sweep();
    expect(countReadings(t)).toBe(0);
    expect(whole("sum")).toBe(3);
  });

  test("go when their sensor says so", async () => {
    const [short, long] = await t.commit((ctx) => [addComponent(ctx, "sensor"), addComponent(ctx, "sensor")] as const);
    const keep = (id: string, retentionDays: number | null) =>
      t.commit((ctx) => updateComponent(ctx, "sensor", id, { retentionDays }));
    await keep(short.id, 2);
    await keep(long.id, 0);
    for (const { id } of [sensor, short, long])
      for (const age of [1, 3, 89, 92, 400]) await add(age, now - age * dayMs, id);
    await rollUpAll();
    await sweep();
    const ages = (id: string) => list(id).map(({ value }) => value);
    expect([ages(sensor.id), ages(short.id), ages(long.id)]).toEqual([[1, 3, 89], [1], [1, 3, 89, 92, 400]]);
    await keep(long.id, null);
    await sweep();
    expect(ages(long.id)).toEqual([1, 3, 89]);
    // What is to be kept longer from now on does not bring back what is gone.
    await keep(short.id, 0);
    await sweep();
    expect(ages(short.id)).toEqual([1]);
  });

  test("are found, however many sensors there are", async () => {
    const ids = await t.commit((ctx) =>
      Array.from({ length: 250 }, () => addComponent(ctx, "sensor", sensor.deviceId)).map(({ id }) => id),
    );
    for (const id of [ids[0], ids[48], ids[49], ids[249]]) await add(1, limit90 - 1, id);
    await rollUpAll();
    expect((await sweep()).length).toBeGreaterThan(3);
    expect(countReadings(t)).toBe(0);
  });
});

describe("the sums of what is gone", () => {
  const at = limit90 - 10 * dayMs;
  /** Two readings in an hour, dropped. */
  async function drop(): Promise<void> {
    await add(10, at + minuteMs);
    await add(20, at + 2 * minuteMs);
    await add(1, now - hourMs);
    await rollUpAll();
    await sweep();
    expect(countReadings(t)).toBe(1);
  }
  const hours = () => days("sum", "1h").map(({ value, count }) => ({ value, count }));

  test("take in what comes late, which then goes too", async () => {
    await drop();
    const id = await add(5, at + 3 * minuteMs);
    expect(hours()).toEqual([
      { value: 35, count: 3 },
      { value: 1, count: 1 },
    ]);
    expect(() => t.read((ctx) => getReading(ctx, id))).toThrow("reading not found");
    await rollUpAll();
    expect(hours()).toEqual([
      { value: 35, count: 3 },
      { value: 1, count: 1 },
    ]);
    // Sent again while it is there, it is the same one.
    expect(await add(5, at + 3 * minuteMs)).toBe(id);
    await sweep();
    expect(countReadings(t)).toBe(1);
    expect(hours()).toEqual([
      { value: 35, count: 3 },
      { value: 1, count: 1 },
    ]);
    expect([whole("min", { to: limit90 }), whole("max", { to: limit90 })]).toEqual([5, 20]);
  });

  test.each([true, false])("take in what a change moves there (rolled up before: %s)", async (isRolledUp) => {
    await drop();
    const id = await add(7, now - 2 * hourMs);
    if (isRolledUp) await rollUpAll();
    await t.commit((ctx) => updateReading(ctx, id, { value: 8, valueAt: at + 5 * minuteMs }));
    await rollUpAll();
    expect(hours()).toEqual([
      { value: 38, count: 3 },
      { value: 1, count: 1 },
    ]);
    expect(days("sum").map(({ value }) => value)).toEqual([38, 1]);
    await sweep();
    expect(hours()).toEqual([
      { value: 38, count: 3 },
      { value: 1, count: 1 },
    ]);
  });

  test("stay when something else of their day is deleted", async () => {
    const cut = at + 12 * hourMs;
    await add(10, cut - 1);
    const id = await add(20, cut);
    await add(30, cut + 1);
    await rollUpAll();
    await sweep({ policy: forEver, before: cut });
    expect(list()).toHaveLength(2);
    await t.commit((ctx) => deleteReading(ctx, id));
    expect(days("sum").map(({ value, count }) => ({ value, count }))).toEqual([{ value: 40, count: 2 }]);
  });

  test("are not finer than an hour, and an hour is where it begins", async () => {
    await drop();
    expect(days("sum", "5m").map(({ value }) => value)).toEqual([1]);
    // Two ranges side by side: each hour counts in one of them.
    expect(whole("sum", { to: at + 90_000 })).toBe(30);
    expect(whole("sum", { from: at + 90_000 })).toBe(1);
    expect(whole("sum", { from: at + 90_000, to: limit90 })).toBeUndefined();
    expect(whole("count", { from: at + 90_000, to: limit90 })).toBe(0);
  });

  test("go after their own time, and not before the readings themselves", async () => {
    const old = Date.UTC(2026, 0, 1);
    await add(1, old - 1);
    await add(2, old);
    await rollUpAll();
    const [kept] = await t.commit((ctx) => [addComponent(ctx, "sensor")]);
    await t.commit((ctx) => updateComponent(ctx, "sensor", kept?.id ?? "", { retentionDays: 0 }));
    await add(3, old - 1, kept?.id);
    await rollUpAll();
    expect(countRows(t, "rollups")).toBe(6);
    const steps = await sweep({ policy: { rawDays: 90, rollupDays: 365 } });
    expect(steps.reduce((sum, { rollups }) => sum + rollups, 0)).toBe(2);
    expect(whole("sum")).toBe(2);
    expect(list().map(({ value }) => value)).toEqual([3]);
    await sweep({ policy: { rawDays: 90, rollupDays: 10 } });
    expect(whole("sum")).toBeUndefined();
    expect(countRows(t, "rollups")).toBe(2);
  });

  // Around the long night in Ljubljana, and few enough hours for several readings each.
  const from = Date.UTC(2026, 9, 24);
  const instant = fc.integer({ min: 0, max: 3 * dayMs }).map((offset) => from + offset);
  const value = fc.integer({ min: -400, max: 1_200 }).map((tenths) => tenths / 10 + 0);
  const action = fc.oneof(
    { weight: 10, arbitrary: fc.record({ kind: fc.constant("add" as const), at: instant, value }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant("change" as const), pick: fc.nat(), at: instant, value }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("delete" as const), pick: fc.nat() }) },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constant("roll up" as const), limit: fc.integer({ min: 1, max: 40 }) }),
    },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant("sweep" as const), before: instant, pick: fc.option(fc.nat()) }),
    },
  );
  const query = fc.record({
    aggregation: fc.constantFrom(...aggregations),
    interval: fc.constantFrom<Interval[]>("5m", "1h", "1d", "1w", "1mo"),
    zone: fc.constantFrom("UTC", "Europe/Ljubljana", "Asia/Kathmandu").map((name) => openZone(name) as Zone),
    from: fc.option(instant, { nil: undefined }),
    to: fc.option(instant, { nil: undefined }),
  });

  test("are exact, whatever is added, changed and deleted, and however much is dropped between", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(action, { minLength: 60, maxLength: 150 }),
        fc.array(query, { minLength: 3, maxLength: 6 }),
        async (actions, queries) => {
          sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
          const readings: { id: number; at: number; value: number }[] = [];
          const droppedBefore = (): number => t.read((ctx) => readDroppedBefore(ctx, sensor.pk));
          for (const step of actions) {
            if (step.kind === "add") {
              const id = await add(step.value, step.at);
              // The same instant and value once more is the same reading.
              if (readings.every((reading) => reading.id !== id)) readings.push({ id, at: step.at, value: step.value });
            } else if (step.kind === "roll up") await t.commit((ctx) => rollUpStep(ctx, step.limit));
            else if (step.kind === "sweep") {
              const before = Math.floor(step.before / hourMs) * hourMs;
              const last = step.pick === null ? undefined : readings[step.pick % Math.max(1, readings.length)]?.id;
              await sweep({ policy: forEver, before, upToId: last ?? Number.MAX_SAFE_INTEGER });
            } else {
              const reachable = readings.filter((reading) => reading.at >= droppedBefore());
              const picked = reachable[step.pick % Math.max(1, reachable.length)];
              if (picked === undefined) continue;
              if (step.kind === "delete") {
                await t.commit((ctx) => deleteReading(ctx, picked.id));
                readings.splice(readings.indexOf(picked), 1);
              } else {
                await t.commit((ctx) => updateReading(ctx, picked.id, { value: step.value, valueAt: step.at }));
                Object.assign(picked, { at: step.at, value: step.value });
              }
            }
          }
          await rollUpAll();
          for (const { aggregation, interval, zone, from: start = -Infinity, to: end = Infinity } of queries) {
            const known = readings
              .map((reading) => ({ ...reading, isGone: reading.at < droppedBefore() }))
              .map(({ isGone, at: own, value: stored }) => ({
                isGone,
                at: isGone ? Math.floor(own / hourMs) * hourMs : own,
                value: stored,
              }))
              .filter((reading) => reading.at >= start && reading.at < end);
            const { startOf } = createBuckets(interval, zone);
            const fine = interval === "5m" ? known.filter(({ isGone }) => !isGone) : known;
            const range = {
              sensorPk: sensor.pk,
              ...(start !== -Infinity && { from: start }),
              ...(end !== Infinity && { to: end }),
            };
            expect(t.read((ctx) => runToEnd(aggregateSeries(ctx, range, aggregation, interval, zone)))).toEqual(
              [...Map.groupBy(fine, (reading) => startOf(reading.at))]
                .toSorted(([a], [b]) => a - b)
                .map(([bucket, group]) => ({ at: bucket, value: aggregate(group, aggregation), count: group.length })),
            );
            const [point] = t.read((ctx) => runToEnd(aggregateRange(ctx, range, aggregation)));
            expect({ value: point?.value ?? 0, count: point?.count ?? 0 }).toEqual(
              known.length > 0 ? { value: aggregate(known, aggregation), count: known.length } : { value: 0, count: 0 },
            );
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});

function aggregate(readings: readonly { value: number }[], aggregation: Aggregation): number {
  const values = readings.map(({ value }) => value);
  const sum: ExactSum = [];
  for (const value of values) addExact(sum, value);
  return {
    avg: roundSum(sum) / values.length,
    sum: roundSum(sum),
    min: Math.min(...values),
    max: Math.max(...values),
    count: values.length,
  }[aggregation];
}

describe("where the store is to become smaller", () => {
  test("the oldest goes first, whosever it is, however long it was to be kept", async () => {
    const other = await t.commit((ctx) => addComponent(ctx, "sensor"));
    await t.commit((ctx) => updateComponent(ctx, "sensor", other.id, { retentionDays: 0 }));
    await fillMinutes(70_000, now - 80 * dayMs);
    await fillMinutes(70_000, now - 60 * dayMs, other.pk);
    const cut = t.read(chooseCut) as number;
    expect(cut % hourMs).toBe(0);
    const before = { all: readAll().length, count: whole("count") };
    await sweep({ policy: forEver, before: cut });
    const left = readAll();
    expect(firstOf(left)).toBeGreaterThanOrEqual(cut);
    expect(left.length).toBeLessThan(before.all);
    expect(left.filter(({ sensorPk }) => sensorPk === other.pk)).toHaveLength(70_000);
    expect(whole("count")).toBe(before.count);
    // Round by round all that is in blocks can go, and never what came in the last hour.
    let rounds = 0;
    for (let next = t.read(chooseCut); next !== undefined; next = t.read(chooseCut)) {
      await sweep({ policy: forEver, before: next });
      expect((rounds += 1)).toBeLessThan(500);
    }
    expect(countRows(t, "blocks")).toBe(0);
    expect(whole("count")).toBe(before.count);
  });

  test("nothing goes where there are no blocks", () => {
    expect(t.read(chooseCut)).toBeUndefined();
  });
});
