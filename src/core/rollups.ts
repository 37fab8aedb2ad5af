import { and, count, eq, sql } from "drizzle-orm";
import { runToEnd, type Steps } from "../steps.ts";
import type { StoredReading } from "../store/readings.ts";
import { rollups, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { addExact, addPacked, packSum, type ExactSum, type SumRest } from "./exact-sum.ts";
import { prepareOnce } from "./prepared.ts";
import { readProgress, setProgress } from "./progress.ts";
import { formatInstant } from "./time.ts";
import { enqueueEvent } from "./webhooks.ts";

// Sums by hour and day. They hold every reading up to a watermark, the id of the last one summed up; ids rise in
// the order of commits, so nothing slips past it. What is behind the watermark and then changes is summed anew in the
// transaction that changes it. Whoever reads adds what is ahead of the watermark from the readings themselves: an
// answer never depends on how far the background work has come.

export const rollupWidths = { hour: 3_600_000, day: 86_400_000 } as const;

const { hour, day } = rollupWidths;

export interface Aggregate {
  count: number;
  sum: ExactSum;
  min: number;
  max: number;
}

export const emptyAggregate = (): Aggregate => ({ count: 0, sum: [], min: Infinity, max: -Infinity });

export function addValue(into: Aggregate, value: number): void {
  into.count += 1;
  addExact(into.sum, value);
  if (value < into.min) into.min = value;
  if (value > into.max) into.max = value;
}

/** [start_at, count, sum, sum_rest, min, max] */
export type RollupRow = [startAt: number, count: number, sum: number, rest: SumRest, min: number, max: number];

export function addRollup(into: Aggregate, [, count, sum, rest, min, max]: RollupRow): void {
  into.count += count;
  addPacked(into.sum, sum, rest);
  if (min < into.min) into.min = min;
  if (max > into.max) into.max = max;
}

const statements = prepareOnce(({ $client }) => ({
  rows: $client
    .prepare<[width: number, sensorPk: number, from: number, to: number], RollupRow>(
      `SELECT start_at, count, sum, sum_rest, min, max FROM rollups
       WHERE width = ? AND sensor_pk = ? AND start_at >= ? AND start_at < ? ORDER BY start_at`,
    )
    .raw(),
  first: $client
    .prepare<[width: number, sensorPk: number, from: number, to: number], number>(
      "SELECT start_at FROM rollups WHERE width = +? AND sensor_pk = +? AND start_at >= +? AND start_at < +? ORDER BY start_at LIMIT 1",
    )
    .pluck(),
  last: $client
    .prepare<[width: number, sensorPk: number, from: number, to: number], number>(
      "SELECT start_at FROM rollups WHERE width = +? AND sensor_pk = +? AND start_at >= +? AND start_at < +? ORDER BY start_at DESC LIMIT 1",
    )
    .pluck(),
  one: $client
    .prepare<[width: number, sensorPk: number, startAt: number], RollupRow>(
      "SELECT start_at, count, sum, sum_rest, min, max FROM rollups WHERE width = ? AND sensor_pk = ? AND start_at = ?",
    )
    .raw(),
  put: $client.prepare<[number, number, number, number, number, SumRest, number, number]>(
    `INSERT OR REPLACE INTO rollups (width, sensor_pk, start_at, count, sum, sum_rest, min, max)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
  ),
  remove: $client.prepare<[width: number, sensorPk: number, startAt: number]>(
    "DELETE FROM rollups WHERE width = ? AND sensor_pk = ? AND start_at = ?",
  ),
}));

const watermarkName = "rollups";

/** The id of the last reading that the rollups hold. */
export const readWatermark = (ctx: Ctx): number => readProgress(ctx, watermarkName) ?? 0;

/** So many take about 0.2 ms. */
const rowsPerStep = 256;

/** One sensor's rollups of a width, [from, to), in order. */
export function* visitRollups(
  ctx: Ctx,
  { width, sensorPk, from, to }: { width: number; sensorPk: number; from: number; to: number },
  each: (row: RollupRow) => void,
): Steps<void> {
  const { rows, first } = statements(ctx.db);
  for (let at: number | undefined = from; at !== undefined && at < to; at = first.get(width, sensorPk, at, to)) {
    const end: number = Math.min(to, at + rowsPerStep * width);
    for (const row of rows.all(width, sensorPk, at, end)) each(row);
    at = end;
    yield;
  }
}

/** The starts of the first and the last hour of a sensor's in [from, to). */
export function hourBounds(
  ctx: Ctx,
  sensorPk: number,
  from: number,
  to: number,
): { first: number; last: number } | undefined {
  const { first, last } = statements(ctx.db);
  const start = first.get(hour, sensorPk, from, to);
  return start === undefined ? undefined : { first: start, last: last.get(hour, sensorPk, from, to) as number };
}

export const floorTo = (at: number, width: number): number => Math.floor(at / width) * width;

/**
 * Sums up the next `limit` readings.
 * @returns how many there were; fewer than `limit`: the rollups hold everything now
 */
export function rollUpStep(ctx: Ctx, limit: number): number {
  const rows = ctx.readings.after(readWatermark(ctx), limit);
  // What comes after the last one and is not there any more needs no second look.
  const upToId = rows.length < limit ? ctx.readings.lastId() : (rows.at(-1) as StoredReading).id;
  for (const width of [hour, day]) addToCells(ctx, width, rows);
  setProgress(ctx, watermarkName, upToId);
  return rows.length;
}

function addToCells(ctx: Ctx, width: number, readings: readonly Omit<StoredReading, "id">[]): void {
  const { one } = statements(ctx.db);
  const cells = new Map<number, { sensorPk: number; startAt: number; aggregate: Aggregate }>();
  for (const { sensorPk, valueAt, value } of readings) {
    const index = Math.floor(valueAt / width);
    // One number for both: a sensor has fewer than 2^31 cells on either side of 1970.
    const key = sensorPk * 2 ** 32 + index;
    let cell = cells.get(key);
    if (cell === undefined) cells.set(key, (cell = { sensorPk, startAt: index * width, aggregate: emptyAggregate() }));
    addValue(cell.aggregate, value);
  }
  for (const { sensorPk, startAt, aggregate } of cells.values()) {
    const stored = one.get(width, sensorPk, startAt);
    if (stored !== undefined) addRollup(aggregate, stored);
    store(ctx, width, sensorPk, startAt, aggregate);
  }
}

/** True where the rollups hold every reading. */
export const isRolledUp = (ctx: Ctx): boolean => readWatermark(ctx) >= ctx.readings.lastId();

const periods = [
  { period: "hour", width: hour },
  { period: "day", width: day },
] as const;

/** Periods that went by while the gateway was off are told of afterwards, so many at the most. */
const maxMissedPeriods = 48;

const toldName = (period: string): string => `completed.${period}`;

/** True where every hour and day that is over has been told of. */
export const arePeriodsComplete = (ctx: Ctx): boolean =>
  periods.every(({ period, width }) => readProgress(ctx, toldName(period)) === floorTo(ctx.now(), width));

/**
 * Tells of the hours and days that are over and summed up: one event a period in which there were readings. To be called
 * when everything is rolled up.
 */
export function completePeriods(ctx: Ctx): void {
  for (const { period, width } of periods) {
    const now = floorTo(ctx.now(), width);
    const told = readProgress(ctx, toldName(period)) ?? now;
    for (let start = Math.max(told, now - maxMissedPeriods * width); start < now; start += width) {
      const row = ctx.db
        .select({ sensors: count(), readings: sql<number>`coalesce(sum(${rollups.count}), 0)` })
        .from(sensors)
        // Sensor by sensor: the key begins with the sensor, and a sweep would pass years of other periods.
        .innerJoin(rollups, and(eq(rollups.width, width), eq(rollups.sensorPk, sensors.pk), eq(rollups.startAt, start)))
        .get();
      if (row === undefined || row.sensors === 0) continue;
      enqueueEvent(ctx, "aggregation.completed", {
        period,
        start: formatInstant(start),
        end: formatInstant(start + width),
        sensors: row.sensors,
        readings: row.readings,
      });
    }
    setProgress(ctx, toldName(period), now);
  }
}

/**
 * A reading of this sensor at this instant was changed or deleted: what holds it is summed anew. Of an hour whose readings
 * have been dropped, that would leave nothing (see core/retention).
 */
export function correctRollups(ctx: Ctx, sensorPk: number, valueAt: number): void {
  const watermark = readWatermark(ctx);
  const ofHour = emptyAggregate();
  const from = floorTo(valueAt, hour);
  runToEnd(
    ctx.readings.visit({ sensorPk, from, to: from + hour, upToId: watermark }, (value) => addValue(ofHour, value)),
  );
  store(ctx, hour, sensorPk, from, ofHour);
  const ofDay = emptyAggregate();
  const startAt = floorTo(valueAt, day);
  runToEnd(
    visitRollups(ctx, { width: hour, sensorPk, from: startAt, to: startAt + day }, (row) => addRollup(ofDay, row)),
  );
  store(ctx, day, sensorPk, startAt, ofDay);
}

/** A reading that the rollups are to hold has come to an hour whose readings have been dropped: it is added to the sums. */
export function addToRollups(ctx: Ctx, { id, sensorPk, valueAt, value }: StoredReading): void {
  if (id > readWatermark(ctx)) return; // it will be
  for (const width of [hour, day]) addToCells(ctx, width, [{ sensorPk, valueAt, value }]);
}

function store(ctx: Ctx, width: number, sensorPk: number, startAt: number, { count, sum, min, max }: Aggregate): void {
  const { put, remove } = statements(ctx.db);
  ctx.readings.noteRevision(sensorPk);
  if (count === 0) {
    remove.run(width, sensorPk, startAt);
    return;
  }
  const packed = packSum(sum);
  put.run(width, sensorPk, startAt, count, packed.sum, packed.rest, min, max);
}
