import type { Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";
import { roundSum } from "./exact-sum.ts";
import { firstInstant, readDroppedBefore } from "./retention.ts";
import { createBuckets, lengthOf, utc, type Buckets, type Interval, type Zone } from "./intervals.ts";
import {
  addRollup,
  addValue,
  emptyAggregate,
  floorTo,
  hourBounds,
  readRollups,
  readWatermark,
  rollupWidths,
  type Aggregate,
  type RollupRow,
} from "./rollups.ts";

// Aggregates over a range of one sensor's readings, whole or in buckets: from the widest rollups that fit, the readings
// themselves at the ragged ends, and those that no rollup holds yet. Where readings have been dropped (see retention.ts)
// there is nothing finer than an hour, and an hour belongs where it begins: what lies side by side counts nothing twice.

const { hour, day } = rollupWidths;

export type Aggregation = "avg" | "min" | "max" | "sum" | "count";
export const aggregations = ["avg", "min", "max", "sum", "count"] as const satisfies readonly Aggregation[];

/** More buckets than a chart has pixels for. */
export const maxBuckets = 50_000;

export interface Range {
  sensorPk: number;
  /** Inclusive; absent: from the first reading. */
  from?: number | undefined;
  /** Exclusive; absent: to the last reading. */
  to?: number | undefined;
}

export interface Point {
  at: number;
  value: number;
  count: number;
}

/** A range with its ends, and the instant before which only rollups tell what was in it. */
interface Clipped {
  sensorPk: number;
  from: number;
  to: number;
  droppedBefore: number;
}

/** The range cut down to where there is something; `undefined` where there is nothing. */
function clip(ctx: Ctx, { sensorPk, from = firstInstant, to = Number.MAX_SAFE_INTEGER }: Range): Clipped | undefined {
  const droppedBefore = readDroppedBefore(ctx, sensorPk);
  const there = ctx.readings.bounds(sensorPk, from, to);
  const gone = from < droppedBefore ? hourBounds(ctx, sensorPk, from, Math.min(to, droppedBefore)) : undefined;
  const first = Math.min(there?.first ?? Infinity, gone?.first ?? Infinity);
  if (first === Infinity) return undefined;
  const last = Math.max(there?.last ?? -Infinity, gone?.last ?? -Infinity);
  return { sensorPk, from: first, to: last + 1, droppedBefore };
}

/** One bucket over the range; none where it holds no readings, except that their count is 0. Stamped at `from`. */
export function aggregateRange(ctx: Ctx, range: Range, aggregation: Aggregation): Point[] {
  const clipped = clip(ctx, range);
  if (clipped === undefined)
    return aggregation === "count" ? [{ at: range.from ?? ctx.now(), value: 0, count: 0 }] : [];
  const aggregate = emptyAggregate();
  const { sensorPk, from, to, droppedBefore } = clipped;
  visitDropped(ctx, clipped, day, {
    row: (row) => addRollup(aggregate, row),
    value: (value) => addValue(aggregate, value),
  });
  addRange(ctx, aggregate, sensorPk, Math.max(from, droppedBefore), to);
  if (aggregate.count === 0 && aggregation !== "count") return [];
  return [toPoint(range.from ?? clipped.from, aggregate, aggregation)];
}

/**
 * The range in buckets, oldest first, each stamped at its start; those without readings are left out.
 * @throws {DomainError} `invalid`: more buckets than anybody can look at
 */
export function aggregateSeries(
  ctx: Ctx,
  range: Range,
  aggregation: Aggregation,
  interval: Interval,
  zone: Zone,
): Point[] {
  const clipped = clip(ctx, range);
  if (clipped === undefined) return [];
  const { to, droppedBefore } = clipped;
  // What is finer than an hour is gone with the readings.
  const isFine = lengthOf(interval) < hour;
  const from = isFine ? Math.max(clipped.from, droppedBefore) : clipped.from;
  if ((to - from) / lengthOf(interval) > maxBuckets)
    throw new DomainError("invalid", `interval is too short for this range: more than ${maxBuckets} buckets`);
  const { sensorPk } = range;
  const buckets = createBuckets(interval, zone);
  const collected = collectInto(buckets);

  const width = cellWidth(interval, zone, from, to);
  if (!isFine)
    visitDropped(ctx, clipped, width ?? hour, {
      row: (row) => addRollup(collected.at(row[0]), row),
      value: (value, at) => addValue(collected.at(at), value),
    });
  const keptFrom = Math.max(from, droppedBefore);
  // Whole cells of a width that divides every bucket; the ragged ends, less than a cell each, from the readings.
  const start = width === undefined ? to : ceilTo(keptFrom, width);
  const end = width === undefined ? keptFrom : floorTo(to, width);
  if (lengthOf(interval) <= hour && width === undefined)
    ctx.readings.visit({ sensorPk, from: keptFrom, to }, (value, at) => addValue(collected.at(at), value));
  else if (width === undefined || start >= end) addEdge(keptFrom, to);
  else {
    addEdge(keptFrom, start);
    for (const row of readRollups(ctx, width, sensorPk, start, end)) addRollup(collected.at(row[0]), row);
    visitAhead(ctx, sensorPk, start, end, (value, at) => addValue(collected.at(at), value));
    addEdge(end, to);
  }
  return collected.points(aggregation);

  function addEdge(edgeFrom: number, edgeTo: number): void {
    for (let at = edgeFrom; at < edgeTo;) {
      const next = Math.min(edgeTo, buckets.endOf(buckets.startOf(at)));
      addRange(ctx, collected.at(at), sensorPk, at, next);
      at = next;
    }
  }
}

const ceilTo = (at: number, width: number): number => Math.ceil(at / width) * width;

function collectInto(buckets: Buckets) {
  const found = new Map<number, Aggregate>();
  let start = NaN;
  let end = NaN;
  let current: Aggregate | undefined;
  return {
    /** The bucket of an instant. What comes in order finds it without asking the calendar. */
    at(instant: number): Aggregate {
      if (current !== undefined && instant >= start && instant < end) return current;
      start = buckets.startOf(instant);
      end = buckets.endOf(start);
      current = found.get(start);
      if (current === undefined) found.set(start, (current = emptyAggregate()));
      return current;
    },
    points: (aggregation: Aggregation): Point[] =>
      [...found]
        .filter(([, { count }]) => count > 0)
        .toSorted(([a], [b]) => a - b)
        .map(([at, aggregate]) => toPoint(at, aggregate, aggregation)),
  };
}

/** The widest rollup of which every bucket of the series is made up; `undefined` where there is none. */
function cellWidth(interval: Interval, zone: Zone, from: number, to: number): number | undefined {
  const length = lengthOf(interval);
  if (length < hour) return undefined;
  if (zone === utc) return length >= day ? day : hour;
  // Offsets of half and quarter hours, India's or Nepal's, put the edges of buckets inside of UTC's hours.
  for (let at = from; ; at = Math.min(to, at + day)) {
    if (zone.offsetAt(at) % hour !== 0) return undefined;
    if (at >= to) return hour;
  }
}

/**
 * What is known of that part of a range whose readings have been dropped: whole cells of `width` where they fit, hours
 * beside them, and what has come since and no rollup holds yet.
 */
function visitDropped(
  ctx: Ctx,
  { sensorPk, from, to: rangeEnd, droppedBefore }: Clipped,
  width: number,
  visit: { row: (row: RollupRow) => void; value: (value: number, at: number) => void },
): void {
  const to = Math.min(rangeEnd, droppedBefore);
  if (from >= to) return;
  const visitRows = (rowWidth: number, start: number, end: number): void => {
    if (start < end) for (const row of readRollups(ctx, rowWidth, sensorPk, start, end)) visit.row(row);
  };
  const [start, end] = [ceilTo(from, hour), ceilTo(to, hour)];
  const cells = { start: ceilTo(start, width), end: floorTo(end, width) };
  if (cells.start >= cells.end) visitRows(hour, start, end);
  else {
    visitRows(hour, start, cells.start);
    visitRows(width, cells.start, cells.end);
    visitRows(hour, cells.end, end);
  }
  visitAhead(ctx, sensorPk, from, to, visit.value);
}

/** The readings in [from, to) that no rollup holds yet. */
const visitAhead = (
  ctx: Ctx,
  sensorPk: number,
  from: number,
  to: number,
  each: (value: number, at: number) => void,
): void => ctx.readings.visit({ sensorPk, from, to, afterId: readWatermark(ctx) }, each);

/** Adds the readings in [from, to): whole days and hours from rollups, the rest one by one. */
function addRange(ctx: Ctx, into: Aggregate, sensorPk: number, from: number, to: number): void {
  const start = ceilTo(from, hour);
  const end = floorTo(to, hour);
  if (start >= end) {
    addRaw(ctx, into, sensorPk, from, to);
    return;
  }
  addRaw(ctx, into, sensorPk, from, start);
  addCells(ctx, into, sensorPk, start, end, [day, hour]);
  visitAhead(ctx, sensorPk, start, end, (value) => addValue(into, value));
  addRaw(ctx, into, sensorPk, end, to);
}

function addRaw(ctx: Ctx, into: Aggregate, sensorPk: number, from: number, to: number): void {
  if (from < to) ctx.readings.visit({ sensorPk, from, to }, (value) => addValue(into, value));
}

/** Rollups in [from, to), both whole hours: of the first width where whole cells of it fit, of the narrower ones beside. */
function addCells(
  ctx: Ctx,
  into: Aggregate,
  sensorPk: number,
  from: number,
  to: number,
  [width, ...narrower]: number[],
): void {
  if (from >= to || width === undefined) return;
  const start = ceilTo(from, width);
  const end = floorTo(to, width);
  if (start >= end) {
    addCells(ctx, into, sensorPk, from, to, narrower);
    return;
  }
  addCells(ctx, into, sensorPk, from, start, narrower);
  for (const row of readRollups(ctx, width, sensorPk, start, end)) addRollup(into, row);
  addCells(ctx, into, sensorPk, end, to, narrower);
}

function toPoint(at: number, { count, sum, min, max }: Aggregate, aggregation: Aggregation): Point {
  const total = roundSum(sum);
  const value = { avg: total / count, min, max, sum: total, count }[aggregation];
  return { at, value, count };
}
