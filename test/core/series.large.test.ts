import { afterAll, beforeAll, expect, test } from "vitest";
import { openZone, type Zone } from "../../src/core/intervals.ts";
import { sealStep } from "../../src/core/readings.ts";
import { isRolledUp, rollUpStep } from "../../src/core/rounds.ts";
import { aggregateRange, aggregateSeries } from "../../src/core/series.ts";
import { addComponent, openTestStore, type TestStore } from "../support/store.ts";
import { runToEnd } from "../../src/steps.ts";

// A year of readings, by default few enough for every day; LAMBDAIOT_TEST_READINGS=10000000 asks for ten million.

const total = Number(process.env["LAMBDAIOT_TEST_READINGS"] ?? 100_000);
const sensorCount = 100;
const from = Date.UTC(2025, 0, 1);
const yearMs = 365 * 86_400_000;
const longTimeMs = 30 * 60_000;

let t: TestStore;

beforeAll(async () => {
  t = openTestStore();
  t.clock.at = Date.UTC(2027, 0, 1);
  for (let i = 0; i < sensorCount; i++) await t.commit((ctx) => addComponent(ctx, "sensor"));
  // Eighths: sums of them are exact however SQLite adds them up.
  t.store.db.$client.exec("CREATE TEMP TABLE expected (sensor_pk, value_at, value)");
  const note = t.store.db.$client.prepare("INSERT INTO expected (sensor_pk, value_at, value) VALUES (?, ?, ?)");
  const perStep = 10_000;
  for (let first = 0; first < total; first += perStep) {
    await t.commit((ctx) => {
      for (let i = first; i < Math.min(total, first + perStep); i++) {
        const reading = [
          1 + (i % sensorCount),
          from + Math.floor((i * yearMs) / total),
          ((i * 7919) % 1000) / 8,
        ] as const;
        ctx.readings.append(...reading);
        note.run(...reading);
      }
    });
  }
  while (await t.commit((ctx) => rollUpStep(ctx, 2_000)));
  while (await t.commit((ctx) => sealStep(ctx, 10_000)));
}, longTimeMs);
afterAll(() => t.close());

test(`${total} readings are summed up, and a sensor's whole year agrees with SQLite's own sums`, () => {
  expect(t.read(isRolledUp)).toBe(true);
  const expected = t.store.db.$client
    .prepare<[number], { count: number; sum: number; min: number; max: number }>(
      "SELECT count(*) AS count, sum(value) AS sum, min(value) AS min, max(value) AS max FROM expected WHERE sensor_pk = ?",
    )
    .get(7);
  const whole = (aggregation: "count" | "sum" | "min" | "max") =>
    t.read((ctx) => runToEnd(aggregateRange(ctx, { sensorPk: 7 }, aggregation)))[0]?.value;
  expect({ count: whole("count"), sum: whole("sum"), min: whole("min"), max: whole("max") }).toEqual(expected);
});

test("its days in Ljubljana agree with sums over the readings", () => {
  const zone = openZone("Europe/Ljubljana") as Zone;
  const days = t.read((ctx) => runToEnd(aggregateSeries(ctx, { sensorPk: 7 }, "sum", "1d", zone)));
  const sumBetween = t.store.db.$client
    .prepare<[number, number, number], number>(
      "SELECT sum(value) FROM expected WHERE sensor_pk = ? AND value_at >= ? AND value_at < ?",
    )
    .pluck();
  const expected = days.map(({ at }, i) => sumBetween.get(7, at, days[i + 1]?.at ?? from + yearMs));
  expect(days.length).toBeGreaterThanOrEqual(365);
  expect(days.map(({ value }) => value)).toEqual(expected);
});
