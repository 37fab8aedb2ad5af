import type { Arrival } from "./columns.ts";

// The readings that came last, in memory: in the order of arrival, which is that of their ids, and for each sensor in the
// order of time. What a transaction changes here is taken back when it is rolled back.

/** A place in the transaction, to which {@link Tail.undo} goes back. */
export interface Mark {
  next: number;
  changes: number;
}

export interface Tail {
  /** The id that the next reading gets. */
  next(): number;
  /** The oldest id held; equal to `next()` where there is none. */
  first(): number;
  append(sensorPk: number, valueAt: number, value: number, fingerprint: number): number;
  /** `undefined` where the reading is not here, or not any more. The object is used again by the next call. */
  get(id: number): Readonly<Arrival> | undefined;
  /** As it is to be written down, gone or not. The object is used again by the next call. */
  at(id: number): Readonly<Arrival>;
  /** A sensor's ids, ordered by time and then by id. Not to be changed. */
  ofSensor(sensorPk: number): readonly number[];
  sensors(): number[];
  /** Where in a sensor's ids the first reading is that does not come before that time and id. */
  placeOf(ids: readonly number[], valueAt: number, id: number): number;
  timeOf(id: number): number;
  valueOf(id: number): number;
  replace(id: number, valueAt: number, value: number): void;
  /** Readings of a sensor are gone from here: deleted, or taken over by blocks. */
  remove(sensorPk: number, ids: readonly number[]): void;
  /** Forgets everything below `id`, all of which has been removed. Not to be taken back. */
  forget(id: number): void;
  mark(): Mark;
  undo(mark: Mark): void;
  /** What has been changed until now stays. */
  settle(): void;
}

const firstCapacity = 1_024;

const none: readonly number[] = [];

/** Holds nothing yet; the first reading will be number `firstId`. */
export function createTail(firstId: number): Tail {
  let first = firstId;
  let next = firstId;
  let capacity = firstCapacity;
  let sensorPks = new Int32Array(capacity);
  let times = new Float64Array(capacity);
  let values = new Float64Array(capacity);
  let fingerprints = new Float64Array(capacity);
  const series = new Map<number, number[]>();
  let undoers: (() => void)[] = [];
  const shown: Arrival = { sensorPk: 0, valueAt: 0, value: 0, fingerprint: 0 };

  const timeOf = (id: number): number => times[id - first] as number;
  const valueOf = (id: number): number => values[id - first] as number;

  function grow(): void {
    capacity *= 2;
    const copy = <A extends Int32Array | Float64Array>(old: A, larger: A): A => {
      larger.set(old);
      return larger;
    };
    sensorPks = copy(sensorPks, new Int32Array(capacity));
    times = copy(times, new Float64Array(capacity));
    values = copy(values, new Float64Array(capacity));
    fingerprints = copy(fingerprints, new Float64Array(capacity));
  }

  function placeOf(ids: readonly number[], valueAt: number, id: number): number {
    let low = 0;
    let high = ids.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = ids[middle] as number;
      const at = timeOf(other);
      if (at < valueAt || (at === valueAt && other < id)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  function link(sensorPk: number, valueAt: number, id: number): void {
    const ids = series.get(sensorPk);
    if (ids === undefined) {
      series.set(sensorPk, [id]);
      return;
    }
    const last = ids[ids.length - 1] as number;
    const lastAt = timeOf(last);
    if (valueAt > lastAt || (valueAt === lastAt && id > last)) ids.push(id);
    else ids.splice(placeOf(ids, valueAt, id), 0, id);
  }

  function unlink(sensorPk: number, valueAt: number, id: number): void {
    const ids = series.get(sensorPk) as number[];
    ids.splice(placeOf(ids, valueAt, id), 1);
    if (ids.length === 0) series.delete(sensorPk);
  }

  const ofSensor = (sensorPk: number): readonly number[] => series.get(sensorPk) ?? none;

  /** Both in one order. One by one, half of a sensor's readings would be moved for each. */
  function interleave(a: readonly number[], b: readonly number[]): number[] {
    const merged: number[] = [];
    let i = 0;
    for (const id of b) {
      const to = placeOf(a, timeOf(id), id);
      while (i < to) merged.push(a[i++] as number);
      merged.push(id);
    }
    while (i < a.length) merged.push(a[i++] as number);
    return merged;
  }

  function at(id: number): Arrival {
    const i = id - first;
    shown.sensorPk = sensorPks[i] as number;
    shown.valueAt = times[i] as number;
    shown.value = values[i] as number;
    shown.fingerprint = fingerprints[i] as number;
    return shown;
  }

  return {
    next: () => next,
    first: () => first,
    append(sensorPk, valueAt, value, fingerprint) {
      const i = next - first;
      if (i === capacity) grow();
      sensorPks[i] = sensorPk;
      times[i] = valueAt;
      values[i] = value;
      fingerprints[i] = fingerprint;
      if (sensorPk !== 0) link(sensorPk, valueAt, next);
      return next++;
    },
    get: (id) => (id < first || id >= next || sensorPks[id - first] === 0 ? undefined : at(id)),
    at,
    ofSensor,
    sensors: () => [...series.keys()],
    placeOf,
    timeOf,
    valueOf,
    replace(id, valueAt, value) {
      const i = id - first;
      const sensorPk = sensorPks[i] as number;
      const old = { valueAt: times[i] as number, value: values[i] as number };
      const put = (changed: { valueAt: number; value: number }): void => {
        unlink(sensorPk, timeOf(id), id);
        times[id - first] = changed.valueAt;
        values[id - first] = changed.value;
        link(sensorPk, changed.valueAt, id);
      };
      put({ valueAt, value });
      undoers.push(() => put(old));
    },
    remove(sensorPk, ids) {
      const before = series.get(sensorPk);
      if (before === undefined) return;
      // A few, as users delete them, are looked for; a sweep for each would cost a millisecond.
      if (ids.length <= 8) {
        for (const id of ids) {
          if (sensorPks[id - first] !== sensorPk) continue;
          unlink(sensorPk, timeOf(id), id);
          sensorPks[id - first] = 0;
          undoers.push(() => {
            sensorPks[id - first] = sensorPk;
            link(sensorPk, timeOf(id), id);
          });
        }
        return;
      }
      for (const id of ids) sensorPks[id - first] = 0;
      const left: number[] = [];
      const gone: number[] = [];
      for (const id of before) (sensorPks[id - first] === 0 ? gone : left).push(id);
      if (left.length === 0) series.delete(sensorPk);
      else series.set(sensorPk, left);
      undoers.push(() => {
        for (const id of gone) sensorPks[id - first] = sensorPk;
        series.set(sensorPk, interleave(ofSensor(sensorPk), gone));
      });
    },
    forget(id) {
      const count = next - id;
      for (const column of [sensorPks, times, values, fingerprints]) column.copyWithin(0, id - first, next - first);
      first = id;
      // Room that a long pause of the background work had called for is given back.
      while (capacity > firstCapacity && count < capacity / 4) {
        capacity /= 2;
        sensorPks = sensorPks.slice(0, capacity);
        times = times.slice(0, capacity);
        values = values.slice(0, capacity);
        fingerprints = fingerprints.slice(0, capacity);
      }
    },
    mark: () => ({ next, changes: undoers.length }),
    undo(mark) {
      while (undoers.length > mark.changes) (undoers.pop() as () => void)();
      while (next > mark.next) {
        next -= 1;
        const sensorPk = sensorPks[next - first] as number;
        if (sensorPk !== 0) unlink(sensorPk, timeOf(next), next);
      }
    },
    settle() {
      if (undoers.length > 0) undoers = [];
    },
  };
}
