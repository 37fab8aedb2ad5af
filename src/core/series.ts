import type { Steps } from "../steps.ts";
import type { Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";
import { firstInstant, readDroppedBefore } from "./retention.ts";
import { collectInto, summarize, toPoint, type Aggregation, type Point, type Sums } from "./collected.ts";
import { ofOneMoment } from "./moment.ts";
import { createBuckets, lengthOf, utc, type Interval, type Zone } from "./intervals.ts";
import {
  addRollup,
  addValue,
  emptyAggregate,
  floorTo,
  hourBounds,
  readWatermarkOf,
  rollupWidths,
  visitRollups,
} from "./rollups.ts";

// Aggregates over a range of one sensor's readings, whole or in buckets: from the widest rollups that fit, the readings
// themselves at the ragged ends, and those that no rollup holds yet. Where readings have been dropped (see retention.ts)
// there is nothing finer than an hour, and an hour belongs where it begins: what lies side by side counts nothing twice.

const { hour, day } = rollupWidths;

/** More buckets than a chart has pixels for. */
export const maxBuckets = 50_000;

export interface Range {
  sensorPk: number;
  /** Inclusive; absent: from the first reading. */
  from?: number | undefined;
  /** Exclusive; absent: to the last reading. */
  to?: number | undefined;
}

/** A range with its ends, and the instant before which only rollups tell what was in it. */
interface Clipped {
  sensorPk: number;
  from: number;
  to: number;
  droppedBefore: number;
  /** What comes later is not of the same moment. */
  upToId: number;
}

/** The range cut down to where there is something; `undefined` where there is nothing. */
function clip(ctx: Ctx, { sensorPk, from = firstInstant, to = Number.MAX_SAFE_INTEGER }: Range): Clipped | undefined {
  const droppedBefore = readDroppedBefore(ctx, sensorPk);
  const there = ctx.readings.bounds(sensorPk, from, to);
  const gone = from < droppedBefore ? hourBounds(ctx, sensorPk, from, Math.min(to, droppedBefore)) : undefined;
  const first = Math.min(there?.first ?? Infinity, gone?.first ?? Infinity);
  if (first === Infinity) return undefined;
  const last = Math.max(there?.last ?? -Infinity, gone?.last ?? -Infinity);
  return { sensorPk, from: first, to: last + 1, droppedBefore, upToId: ctx.readings.lastId() };
}

/** One bucket over the range; none where it holds no readings, except that their count is 0. Stamped at `from`. */
export const aggregateRange = (ctx: Ctx, range: Range, aggregation: Aggregation): Steps<Point[]> =>
  ofOneMoment(ctx, range.sensorPk, function* () {
    const clipped = clip(ctx, range);
    if (clipped === undefined)
      return aggregation === "count" ? [{ at: range.from ?? ctx.now(), value: 0, count: 0 }] : [];
    const aggregate = emptyAggregate();
    const sums: Sums = { addRow: (row) => addRollup(aggregate, row), addOne: (value) => addValue(aggregate, value) };
    yield* visitDropped(ctx, clipped, day, sums);
    yield* addRange(ctx, sums, { ...clipped, from: Math.max(clipped.from, clipped.droppedBefore) });
    if (aggregate.count === 0 && aggregation !== "count") return [];
    return [toPoint(range.from ?? clipped.from, summarize(aggregate), aggregation)];
  });

/**
 * The range in buckets, oldest first, each stamped at its start; those without readings are left out.
 * @throws {DomainError} `invalid`: more buckets than anybody can look at
 */
export const aggregateSeries = (
  ctx: Ctx,
  range: Range,
  aggregation: Aggregation,
  interval: Interval,
  zone: Zone,
): Steps<Point[]> =>
  ofOneMoment(ctx, range.sensorPk, function* () {
    const clipped = clip(ctx, range);
    if (clipped === undefined) return [];
    const { sensorPk, to, droppedBefore, upToId } = clipped;
    // What is finer than an hour is gone with the readings.
    const isFine = lengthOf(interval) < hour;
    const from = isFine ? Math.max(clipped.from, droppedBefore) : clipped.from;
    if ((to - from) / lengthOf(interval) > maxBuckets)
      throw new DomainError("invalid", `interval is too short for this range: more than ${maxBuckets} buckets`);
    const buckets = createBuckets(interval, zone);
    const collected = collectInto(buckets);

    const width = cellWidth(interval, zone, from, to);
    if (!isFine) yield* visitDropped(ctx, clipped, width ?? hour, collected);
    const keptFrom = Math.max(from, droppedBefore);
    // Whole cells of a width that divides every bucket; the ragged ends, less than a cell each, from the readings.
    const start = width === undefined ? to : ceilTo(keptFrom, width);
    const end = width === undefined ? keptFrom : floorTo(to, width);
    if (lengthOf(interval) <= hour && width === undefined)
      yield* ctx.readings.visit({ sensorPk, from: keptFrom, to, upToId }, collected.addOne);
    else if (width === undefined || start >= end) yield* addEdge(keptFrom, to);
    else {
      yield* addEdge(keptFrom, start);
      yield* visitRollups(ctx, { width, sensorPk, from: start, to: end }, collected.addRow);
      yield* visitAhead(ctx, { ...clipped, from: start, to: end }, collected);
      yield* addEdge(end, to);
    }
    return yield* collected.points(aggregation);

    function* addEdge(edgeFrom: number, edgeTo: number): Steps<void> {
      for (let at = edgeFrom; at < edgeTo;) {
        const next = Math.min(edgeTo, buckets.endOf(buckets.startOf(at)));
        yield* addRange(ctx, collected, { sensorPk, from: at, to: next, upToId });
        at = next;
      }
    }
  });

const ceilTo = (at: number, width: number): number => Math.ceil(at / width) * width;

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
function* visitDropped(ctx: Ctx, clipped: Clipped, width: number, sums: Sums): Steps<void> {
  const { sensorPk, from, droppedBefore, upToId } = clipped;
  const to = Math.min(clipped.to, droppedBefore);
  if (from >= to) return;
  const visitRows = (rowWidth: number, start: number, end: number): Steps<void> =>
    visitRollups(ctx, { width: rowWidth, sensorPk, from: start, to: end }, sums.addRow);
  const [start, end] = [ceilTo(from, hour), ceilTo(to, hour)];
  const cells = { start: ceilTo(start, width), end: floorTo(end, width) };
  if (cells.start >= cells.end) yield* visitRows(hour, start, end);
  else {
    yield* visitRows(hour, start, cells.start);
    yield* visitRows(width, cells.start, cells.end);
    yield* visitRows(hour, cells.end, end);
  }
  yield* visitAhead(ctx, { sensorPk, from, to, upToId }, sums);
}

/** Readings of a sensor in [from, to), up to an id. */
type Part = Pick<Clipped, "sensorPk" | "from" | "to" | "upToId">;

/** The readings that no rollup holds yet. */
const visitAhead = (ctx: Ctx, part: Part, sums: Sums): Steps<void> =>
  ctx.readings.visit({ ...part, afterId: readWatermarkOf(ctx, part.sensorPk) }, sums.addOne);

/** Adds the readings of a part: whole days and hours from rollups, the rest one by one. */
function* addRange(ctx: Ctx, sums: Sums, part: Part): Steps<void> {
  const { from, to } = part;
  const start = ceilTo(from, hour);
  const end = floorTo(to, hour);
  if (start >= end) {
    yield* addRaw(ctx, sums, part);
    return;
  }
  yield* addRaw(ctx, sums, { ...part, to: start });
  yield* addCells(ctx, sums, { ...part, from: start, to: end }, [day, hour]);
  yield* visitAhead(ctx, { ...part, from: start, to: end }, sums);
  yield* addRaw(ctx, sums, { ...part, from: end });
}

function* addRaw(ctx: Ctx, sums: Sums, part: Part): Steps<void> {
  if (part.from < part.to) yield* ctx.readings.visit(part, sums.addOne);
}

/** The rollups of a part of whole hours: of the first width where whole cells of it fit, of the narrower ones beside. */
function* addCells(ctx: Ctx, sums: Sums, part: Part, [width, ...narrower]: number[]): Steps<void> {
  const { from, to, sensorPk } = part;
  if (from >= to || width === undefined) return;
  const start = ceilTo(from, width);
  const end = floorTo(to, width);
  if (start >= end) {
    yield* addCells(ctx, sums, part, narrower);
    return;
  }
  yield* addCells(ctx, sums, { ...part, to: start }, narrower);
  yield* visitRollups(ctx, { width, sensorPk, from: start, to: end }, sums.addRow);
  yield* addCells(ctx, sums, { ...part, from: end }, narrower);
}
