import * as fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { addExact, roundSum, type ExactSum } from "../../src/core/exact-sum.ts";
import { createBuckets, openZone, utc, type Interval, type Zone } from "../../src/core/intervals.ts";
import { createReading, deleteReading, sealStep, updateReading } from "../../src/core/readings.ts";
import { readRollupProgress } from "../../src/core/rollups.ts";
import { isRolledUp, rollUpStep } from "../../src/core/rounds.ts";
import { aggregations, type Aggregation, type Point } from "../../src/core/collected.ts";
import { aggregateRange, aggregateSeries } from "../../src/core/series.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;

let t: TestStore;
let sensor: { id: string; pk: number };

beforeEach(async () => {
  t = openTestStore({ maxRecentReadings: 8 });
  t.clock.at = Date.UTC(2027, 0, 1);
  sensor = await t.commit((ctx) => addComponent(ctx, "sensor"));
});
afterEach(() => t.close());

const add = (value: number, valueAt: number, sensorId = sensor.id): Promise<number> =>
  t.commit((ctx) => createReading(ctx, { sensorId, value, valueAt }).id);

async function rollUpAll(): Promise<void> {
  while (await t.commit((ctx) => rollUpStep(ctx, 100)));
}

const series = (
  aggregation: Aggregation,
  interval: Interval,
  zone: Zone = utc,
  range: { from?: number; to?: number } = {},
): Point[] =>
  t.read((ctx) => runToEnd(aggregateSeries(ctx, { sensorPk: sensor.pk, ...range }, aggregation, interval, zone)));

const whole = (aggregation: Aggregation, range: { from?: number; to?: number } = {}): Point[] =>
  t.read((ctx) => runToEnd(aggregateRange(ctx, { sensorPk: sensor.pk, ...range }, aggregation)));

interface Stored {
  at: number;
  value: number;
}

function aggregate(readings: readonly Stored[], aggregation: Aggregation): number {
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

/** What the raw readings give, by brute force. */
function expectedSeries(
  readings: readonly Stored[],
  aggregation: Aggregation,
  interval: Interval,
  zone: Zone,
): Point[] {
  const { startOf } = createBuckets(interval, zone);
  return [...Map.groupBy(readings, ({ at }) => startOf(at))]
    .toSorted(([a], [b]) => a - b)
    .map(([at, group]) => ({ at, value: aggregate(group, aggregation), count: group.length }));
}

describe("rollups give exactly what the raw readings would", () => {
  // Around the autumn night in Ljubljana and New York, so that buckets of every kind meet a change of clocks.
  const from = Date.UTC(2026, 9, 20);
  const at = fc.integer({ min: 0, max: 20 * dayMs }).map((offset) => from + offset);
  const value = fc.oneof(
    fc.integer({ min: -400, max: 1_200 }).map((tenths) => tenths / 10),
    fc.double({ min: -1e6, max: 1e6, noNaN: true }),
  );
  const action = fc.oneof(
    { weight: 8, arbitrary: fc.record({ kind: fc.constant("add" as const), at, value, of: fc.nat() }) },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constant("change" as const),
        pick: fc.nat(),
        at: fc.option(at),
        value: fc.option(value),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("delete" as const), pick: fc.nat() }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant("roll up" as const), limit: fc.integer({ min: 1, max: 6 }) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("seal" as const),
        limit: fc.integer({ min: 1, max: 40 }),
        // As a move from an earlier schema leaves it.
        isAhead: fc.boolean(),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("restart" as const) }) },
  );
  const zones = ["UTC", "Europe/Ljubljana", "America/New_York", "Asia/Kathmandu"];
  const query = fc.record({
    aggregation: fc.constantFrom(...aggregations),
    interval: fc.constantFrom<Interval[]>("5m", "1h", "1d", "1w", "1mo"),
    zone: fc.constantFrom(...zones).map((name) => openZone(name) as Zone),
    from: fc.option(at, { nil: undefined }),
    to: fc.option(at, { nil: undefined }),
  });

  test("under random additions, back-fill, changes and deletions, at whatever point the background work is", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(action, { minLength: 60, maxLength: 150 }),
        fc.array(query, { minLength: 3, maxLength: 6 }),
        async (actions, queries) => {
          await rollUpAll();
          const sensors = await t.commit((ctx) => [1, 2, 3].map(() => addComponent(ctx, "sensor")));
          const stored = new Map<number, Stored & { sensorId: string }>();
          const pick = (n: number): number | undefined => [...stored.keys()][n % Math.max(1, stored.size)];
          for (const step of actions) {
            if (step.kind === "add") {
              const { id: sensorId } = sensors[step.of % sensors.length] as (typeof sensors)[0];
              const reading = { at: step.at, value: step.value + 0 };
              stored.set(await add(reading.value, reading.at, sensorId), { ...reading, sensorId });
            } else if (step.kind === "roll up") await t.commit((ctx) => rollUpStep(ctx, step.limit));
            else if (step.kind === "seal")
              await t.commit((ctx) =>
                step.isAhead ? ctx.readings.seal(ctx.readings.lastId(), step.limit) : sealStep(ctx, step.limit),
              );
            else if (step.kind === "restart") await t.reopen();
            else {
              const id = pick(step.pick);
              if (id === undefined) continue;
              if (step.kind === "delete") {
                await t.commit((ctx) => deleteReading(ctx, id));
                stored.delete(id);
              } else {
                const before = stored.get(id) as Stored & { sensorId: string };
                const after = { at: step.at ?? before.at, value: (step.value ?? before.value) + 0 };
                await t.commit((ctx) => updateReading(ctx, id, { value: after.value, valueAt: after.at }));
                stored.set(id, { ...before, ...after });
              }
            }
          }
          for (const [i, { aggregation, interval, zone, from: start, to: end }] of queries.entries()) {
            sensor = sensors[i % sensors.length] as (typeof sensors)[0];
            const range = { ...(start !== undefined && { from: start }), ...(end !== undefined && { to: end }) };
            const inRange = [...stored.values()].filter(
              ({ sensorId, at }) => sensorId === sensor.id && at >= (start ?? -Infinity) && at < (end ?? Infinity),
            );
            expect(series(aggregation, interval, zone, range)).toEqual(
              expectedSeries(inRange, aggregation, interval, zone),
            );
            const [point] = whole(aggregation, range);
            // Of nothing there is no average, least or most; the count of nothing is 0.
            const expected =
              inRange.length > 0
                ? { value: aggregate(inRange, aggregation), count: inRange.length }
                : { value: 0, count: 0 };
            expect({ value: point?.value ?? 0, count: point?.count ?? 0 }).toEqual(expected);
          }
        },
      ),
      { numRuns: 40 },
    );
  }, 60_000);
});

describe("a series", () => {
  test("of one reading has one bucket, stamped at its start", async () => {
    await add(21.5, Date.UTC(2026, 0, 14, 10, 7, 30));
    expect(series("avg", "1h")).toEqual([{ at: Date.UTC(2026, 0, 14, 10), value: 21.5, count: 1 }]);
  });

  test("of none is empty, and so is the whole range, but for its count", () => {
    expect(series("sum", "1d")).toEqual([]);
    expect(whole("avg")).toEqual([]);
    expect(whole("count", { from: 1_000 })).toEqual([{ at: 1_000, value: 0, count: 0 }]);
  });

  test("gives every hour of the long night and of the short one its own readings", async () => {
    const zone = openZone("Europe/Ljubljana") as Zone;
    for (const night of [Date.UTC(2026, 2, 28, 12), Date.UTC(2026, 9, 24, 12)]) {
      for (let minutes = 0; minutes < 36 * 60; minutes += 15) await add(1, night + minutes * minuteMs);
    }
    await rollUpAll();
    expect(series("count", "1h", zone).every(({ value }) => value === 4)).toBe(true);
    const days = series("count", "1d", zone);
    expect(days.find(({ at }) => at === Date.parse("2026-03-28T23:00:00Z"))?.value).toBe(23 * 4);
    expect(days.find(({ at }) => at === Date.parse("2026-10-24T22:00:00Z"))?.value).toBe(25 * 4);
  });

  test("of a month takes back-fill in", async () => {
    const zone = openZone("America/New_York") as Zone;
    const month = Date.parse("2026-03-01T05:00:00Z");
    for (let day = 0; day < 31; day += 2) await add(10, month + day * dayMs + 6 * hourMs);
    await rollUpAll();
    for (let day = 1; day < 31; day += 2) await add(30, month + day * dayMs + 6 * hourMs);
    const before = series("avg", "1mo", zone);
    await rollUpAll();
    expect(t.read(isRolledUp)).toBe(true);
    expect(series("avg", "1mo", zone)).toEqual(before);
    expect(before).toEqual([{ at: month, value: (16 * 10 + 15 * 30) / 31, count: 31 }]);
  });

  test("of more buckets than anybody can look at is refused", async () => {
    await add(1, 0);
    await add(1, 365 * dayMs);
    expect(() => series("avg", "1m")).toThrow("too short");
    expect(series("avg", "1h")).toHaveLength(2);
  });
});

test("the watermark goes on after a restart where it was", async () => {
  for (let i = 0; i < 10; i++) await add(i, i * hourMs);
  await t.commit((ctx) => rollUpStep(ctx, 4));
  const before = t.read(readRollupProgress);
  await t.reopen();
  expect(t.read(readRollupProgress)).toEqual(before);
  await rollUpAll();
  expect(whole("sum")).toEqual([{ at: 0, value: 45, count: 10 }]);
});
