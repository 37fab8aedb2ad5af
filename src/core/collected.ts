import type { Steps } from "../steps.ts";
import { roundSum } from "./exact-sum.ts";
import type { Buckets } from "./intervals.ts";
import { addRollup, addValue, emptyAggregate, type Aggregate, type RollupRow } from "./rollups.ts";

// What a range of a sensor's readings holds, bucket by bucket.

export type Aggregation = "avg" | "min" | "max" | "sum" | "count";
export const aggregations = ["avg", "min", "max", "sum", "count"] as const satisfies readonly Aggregation[];

export interface Point {
  at: number;
  value: number;
  count: number;
}

/** Where what a range holds is added up: a rollup, or a reading by itself. */
export interface Sums {
  addRow(row: RollupRow): void;
  addOne(value: number, at: number): void;
}

interface Summary {
  count: number;
  sum: number;
  min: number;
  max: number;
}

export function toPoint(at: number, { count, sum, min, max }: Summary, aggregation: Aggregation): Point {
  const value = { avg: sum / count, min, max, sum, count }[aggregation];
  return { at, value, count };
}

export const summarize = ({ count, sum, min, max }: Aggregate): Summary => ({ count, sum: roundSum(sum), min, max });

/** So many points are made in about 0.1 ms. */
const pointsPerStep = 512;

const firstCapacity = 1_024;

/**
 * Most buckets are one rollup, of which there is nothing to add up. They are kept as plain numbers side by side: thousands
 * of objects that live as long as a query does are what the collector stops everybody for.
 */
export function collectInto(buckets: Buckets): Sums & { points(aggregation: Aggregation): Steps<Point[]> } {
  let starts = new Float64Array(firstCapacity);
  /** [count, sum, rest, min, max] of the one rollup that is in a bucket; a count of 0: it is in `sums`, with more. */
  let rows = new Float64Array(firstCapacity * 5);
  let length = 0;
  /** By start: what is made up of several, or of readings. */
  const sums = new Map<number, Aggregate>();
  /** By start: what rounding has left over of a rollup's sum, where that is more than one number. */
  const rests = new Map<number, Buffer>();
  /** The one of them that was added to last. */
  let opened = { at: NaN, aggregate: emptyAggregate() };
  let current = 0;
  let start = NaN;
  let end = NaN;

  /** The place of an instant's bucket. What comes in order finds it without a search, mostly without asking the calendar. */
  function placeOf(instant: number): number {
    if (instant >= start && instant < end) return current;
    start = buckets.startOf(instant);
    end = buckets.endOf(start);
    current = findPlace();
    if (current === length || starts[current] !== start) insert();
    return current;
  }

  /** Where the first bucket is that does not begin before `start`. */
  function findPlace(): number {
    if (length === 0 || (starts[length - 1] as number) < start) return length;
    let low = 0;
    let high = length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((starts[middle] as number) < start) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function insert(): void {
    if (length === starts.length) {
      const [oldStarts, oldRows] = [starts, rows];
      starts = new Float64Array(length * 2);
      starts.set(oldStarts);
      rows = new Float64Array(length * 10);
      rows.set(oldRows);
    }
    if (current < length) {
      starts.copyWithin(current + 1, current, length);
      rows.copyWithin((current + 1) * 5, current * 5, length * 5);
      rows.fill(0, current * 5, current * 5 + 5);
    }
    starts[current] = start;
    length += 1;
  }

  /** The sums of a bucket to which something is added. */
  function open(place: number): Aggregate {
    const at = starts[place] as number;
    if (at === opened.at) return opened.aggregate;
    let aggregate = sums.get(at);
    if (aggregate === undefined) sums.set(at, (aggregate = emptyAggregate()));
    const i = place * 5;
    const count = rows[i] as number;
    if (count > 0) {
      const rest = rests.get(at) ?? (rows[i + 2] as number);
      addRollup(aggregate, [at, count, rows[i + 1] as number, rest, rows[i + 3] as number, rows[i + 4] as number]);
    }
    rows[i] = 0;
    opened = { at, aggregate };
    return aggregate;
  }

  function putRow(place: number, [, count, sum, rest, min, max]: RollupRow): void {
    const i = place * 5;
    rows[i] = count;
    rows[i + 1] = sum;
    if (typeof rest === "object") {
      rows[i + 2] = 0;
      if (rest !== null) rests.set(starts[place] as number, rest);
    } else rows[i + 2] = rest;
    rows[i + 3] = min;
    rows[i + 4] = max;
  }

  function toSummary(place: number): Summary {
    const i = place * 5;
    const count = rows[i] as number;
    if (count === 0) return summarize(sums.get(starts[place] as number) as Aggregate);
    return { count, sum: rows[i + 1] as number, min: rows[i + 3] as number, max: rows[i + 4] as number };
  }

  return {
    addRow(row) {
      const place = placeOf(row[0]);
      if (rows[place * 5] === 0 && (sums.size === 0 || !sums.has(starts[place] as number))) putRow(place, row);
      else addRollup(open(place), row);
    },
    addOne: (value, instant) => addValue(open(placeOf(instant)), value),
    *points(aggregation) {
      const points: Point[] = [];
      for (let place = 0; place < length; place++) {
        points.push(toPoint(starts[place] as number, toSummary(place), aggregation));
        if (place % pointsPerStep === pointsPerStep - 1) yield;
      }
      return points;
    },
  };
}
