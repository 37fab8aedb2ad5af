import { runToEnd, type Steps } from "../steps.ts";
import type { StoredReading } from "../store/readings.ts";
import type { Ctx } from "./ctx.ts";
import { addExact, addPacked, packSum, type ExactSum, type SumRest } from "./exact-sum.ts";
import { prepareOnce } from "./prepared.ts";
import { readProgress, setProgress } from "./progress.ts";

// Sums by hour and day. Of each sensor they hold every reading up to a watermark, the id of the last one summed up; ids
// rise in the order of commits, so nothing slips past it. What is behind the watermark and then changes is summed anew in
// the transaction that changes it. Whoever reads adds what is ahead of the watermark from the readings themselves: an
// answer never depends on how far the background work has come (see rounds.ts).

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

/** Everything up to the reading `doneTo` is summed up, and what has come up to `upTo` is being so, sensor by sensor. */
export interface RollupProgress {
  doneTo: number;
  upTo: number;
  /** Sensors before this one are done. */
  sensorPk: number;
  /** Of that sensor, as far as up to this reading. */
  sensorTo: number;
}

const names = {
  doneTo: "rollups",
  upTo: "rollups.up_to",
  sensorPk: "rollups.sensor",
  sensorTo: "rollups.sensor_to",
} as const;

/** The id of the last reading up to which the rollups hold those of all sensors. */
export const readWatermark = (ctx: Ctx): number => readProgress(ctx, names.doneTo) ?? 0;

/** How far the sums have come; `upTo` is `doneTo` where nobody is at it. */
export function readRollupProgress(ctx: Ctx): RollupProgress {
  const doneTo = readWatermark(ctx);
  const upTo = readProgress(ctx, names.upTo) ?? 0;
  if (upTo <= doneTo) return { doneTo, upTo: doneTo, sensorPk: 0, sensorTo: doneTo };
  return {
    doneTo,
    upTo,
    sensorPk: readProgress(ctx, names.sensorPk) ?? 0,
    sensorTo: readProgress(ctx, names.sensorTo) ?? doneTo,
  };
}

export function setRollupProgress(ctx: Ctx, progress: RollupProgress): void {
  for (const [key, name] of Object.entries(names)) setProgress(ctx, name, progress[key as keyof RollupProgress]);
}

/** The id of the last reading of a sensor's that the rollups hold. */
export function watermarkOf(progress: RollupProgress, sensorPk: number): number {
  if (sensorPk === progress.sensorPk) return progress.sensorTo;
  return sensorPk < progress.sensorPk ? progress.upTo : progress.doneTo;
}

export const readWatermarkOf = (ctx: Ctx, sensorPk: number): number => watermarkOf(readRollupProgress(ctx), sensorPk);

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

interface Cell {
  sensorPk: number;
  startAt: number;
  aggregate: Aggregate;
}

/** Sums to be added to those that are stored. */
function createCells(width: number) {
  const cells = new Map<number, Cell>();
  let last: Cell | undefined;

  function find(sensorPk: number, at: number): Cell {
    // Mostly it is the same again.
    if (last?.sensorPk === sensorPk && at >= last.startAt && at < last.startAt + width) return last;
    const index = Math.floor(at / width);
    // One number for both: a sensor has fewer than 2^31 cells on either side of 1970.
    const key = sensorPk * 2 ** 32 + index;
    let cell = cells.get(key);
    if (cell === undefined) cells.set(key, (cell = { sensorPk, startAt: index * width, aggregate: emptyAggregate() }));
    return cell;
  }

  return {
    cells,
    at: (sensorPk: number, at: number): Aggregate => (last = find(sensorPk, at)).aggregate,
    addToStored(ctx: Ctx): void {
      const { one } = statements(ctx.db);
      for (const { sensorPk, startAt, aggregate } of cells.values()) {
        const stored = one.get(width, sensorPk, startAt);
        if (stored !== undefined) addRollup(aggregate, stored);
        store(ctx, width, sensorPk, startAt, aggregate);
      }
    },
  };
}

function addAggregate(into: Aggregate, { count, sum, min, max }: Aggregate): void {
  into.count += count;
  for (const part of sum) addExact(into.sum, part);
  if (min < into.min) into.min = min;
  if (max > into.max) into.max = max;
}

/** Readings that are summed up by hour, to be added to the rollups together. */
export function collectHours() {
  const hours = createCells(hour);
  return {
    add: (sensorPk: number, valueAt: number, value: number): void => addValue(hours.at(sensorPk, valueAt), value),
    size: (): number => hours.cells.size,
    addToRollups(ctx: Ctx): void {
      const days = createCells(day);
      for (const { sensorPk, startAt, aggregate } of hours.cells.values())
        addAggregate(days.at(sensorPk, startAt), aggregate);
      hours.addToStored(ctx);
      days.addToStored(ctx);
    },
  };
}

/**
 * A reading of this sensor at this instant was changed or deleted: what holds it is summed anew. Of an hour whose readings
 * have been dropped, that would leave nothing (see core/retention).
 */
export function correctRollups(ctx: Ctx, sensorPk: number, valueAt: number): void {
  const watermark = readWatermarkOf(ctx, sensorPk);
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
  if (id > readWatermarkOf(ctx, sensorPk)) return; // it will be
  const hours = collectHours();
  hours.add(sensorPk, valueAt, value);
  hours.addToRollups(ctx);
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
