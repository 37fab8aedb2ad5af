import type { Database } from "better-sqlite3";
import { decodeColumns, emptyColumns, type Columns } from "./columns.ts";
import { createDamage, isDamage } from "./damage.ts";
import type { Steps } from "../steps.ts";
import { cut, interleave, isBefore, maxBlockBytes, placeIn, slice, split, type BlockValues } from "./packing.ts";
import type { Bound, Place, Removed, StoredReading } from "./readings.ts";

// Sealed readings. A block holds consecutive readings of one sensor in the order (value_at, id), compressed, as many as
// fill a page of the store: to read one is to read one page. The blocks of a sensor do not overlap, like the leaves of a
// B-tree; what comes late is put into the one where it belongs.

/** Blocks that were read last are kept decoded, 20 kB each. */
const maxCached = 128;

/** To pack what is left of a block anew takes as long as to remove so many. */
const rowsPerCut = 8;

type Extent = [startAt: number, endAt: number, count: number, maxId: number];
type StartRow = [pk: number, startAt: number, startId: number];
type BlockRow = [pk: number, startAt: number, startId: number, data: Buffer];

/** Goes back in time over a sensor's sealed readings. */
export interface BlockCursor {
  /** Whether there is another one that is not older than `at`; it is what the other functions tell of. */
  reaches(at: number): boolean;
  id(): number;
  valueAt(): number;
  value(): number;
  step(): void;
}

export interface Blocks {
  /** No sealed reading has a higher id. */
  maxId(): number;
  /** The instant of a sensor's newest sealed reading; -Infinity where there is none. */
  endOf(sensorPk: number): number;
  newest(sensorPk: number): StoredReading | undefined;
  find(id: number): StoredReading | undefined;
  /** From the newest reading before a place. */
  openCursor(sensorPk: number, before: Place): BlockCursor;
  /** The readings in [from, to), block by block. */
  visit(
    sensorPk: number,
    from: number,
    to: number,
    each: (value: number, valueAt: number, id: number) => void,
  ): Steps<void>;
  /** The first instant from `from` on; Infinity where there is none. */
  firstFrom(sensorPk: number, from: number): number;
  /** Readings with ids in [from, to), of all sensors, in no order. */
  listByIds(from: number, to: number): StoredReading[];
  /** No sealed reading has an id from `from` on and below this; Infinity where there is none at all. */
  firstIdFrom(from: number): number;
  /**
   * Adds readings of one sensor, in order. Where a damaged block is met, that fails, and is to be tried again in another
   * transaction: then the block stays as it is, and what would have gone into it goes beside it.
   */
  merge(sensorPk: number, readings: Columns): void;
  replace(id: number, valueAt: number, value: number): void;
  remove(id: number): void;
  /** Removes about `limit` readings of a sensor, block by block. Damaged ones: see {@link merge}. @returns how many */
  removeOf(sensorPk: number, limit: number): number;
  /** See {@link Readings.removeBefore}. */
  removeBefore(sensorPk: number, bound: Bound, limit: number): Removed;
  /** The instant at which that block ends, of whatever sensor, that ends first; damaged ones are passed over. */
  firstEnd(): number | undefined;
  /** After a rollback: the store is not what was remembered of it. */
  forgetCached(): void;
}

interface End {
  newest: StoredReading | undefined;
  at: number;
}

/** `onChange` is told of each sensor whose blocks change. */
export function createBlocks(sqlite: Database, onChange: (sensorPk: number) => void = () => undefined): Blocks {
  const columns = "pk, start_at, start_id, data";
  const below = sqlite
    .prepare<[sensorPk: number, at: number, id: number], BlockRow>(
      `SELECT ${columns} FROM blocks WHERE sensor_pk = +? AND (start_at, start_id) < (+?, +?)
       ORDER BY start_at DESC, start_id DESC LIMIT 1`,
    )
    .raw();
  const above = sqlite
    .prepare<[sensorPk: number, at: number, id: number], BlockRow>(
      `SELECT ${columns} FROM blocks WHERE sensor_pk = +? AND (start_at, start_id) > (+?, +?)
       ORDER BY start_at, start_id LIMIT 1`,
    )
    .raw();
  // Both from the index alone, whatever has become of the page.
  const startBelow = sqlite
    .prepare<[sensorPk: number, at: number, id: number], StartRow>(
      `SELECT pk, start_at, start_id FROM blocks WHERE sensor_pk = +? AND (start_at, start_id) < (+?, +?)
       ORDER BY start_at DESC, start_id DESC LIMIT 1`,
    )
    .raw();
  const startAbove = sqlite
    .prepare<[sensorPk: number, at: number, id: number], StartRow>(
      `SELECT pk, start_at, start_id FROM blocks WHERE sensor_pk = +? AND (start_at, start_id) > (+?, +?)
       ORDER BY start_at, start_id LIMIT 1`,
    )
    .raw();
  const endAt = sqlite
    .prepare<[sensorPk: number], number>(
      "SELECT end_at FROM blocks WHERE sensor_pk = ? ORDER BY start_at DESC, start_id DESC LIMIT 1",
    )
    .pluck();
  const byIds = sqlite
    .prepare<[from: number, to: number], [sensorPk: number, ...BlockRow]>(
      `SELECT sensor_pk, ${columns} FROM blocks WHERE max_id >= +? AND min_id < +?`,
    )
    .raw();
  const highest = sqlite.prepare<[], number | null>("SELECT max(max_id) FROM blocks").pluck();
  const lowestFrom = sqlite
    .prepare<[from: number], number | null>("SELECT min(min_id) FROM blocks WHERE max_id >= ?")
    .pluck();
  const insert = sqlite.prepare<BlockValues & { sensorPk: number }>(
    `INSERT INTO blocks (sensor_pk, start_at, start_id, end_at, count, min_id, max_id, data)
     VALUES (:sensorPk, :startAt, :startId, :endAt, :count, :minId, :maxId, :data)`,
  );
  const update = sqlite.prepare<BlockValues & { pk: number }>(
    `UPDATE blocks SET start_at = :startAt, start_id = :startId, end_at = :endAt, count = :count,
       min_id = :minId, max_id = :maxId, data = :data WHERE pk = :pk`,
  );
  const remove = sqlite.prepare<[pk: number]>("DELETE FROM blocks WHERE pk = ?");
  const extentOf = sqlite
    .prepare<[pk: number], Extent>("SELECT start_at, end_at, count, max_id FROM blocks WHERE pk = ?")
    .raw();
  const dataOf = sqlite.prepare<[pk: number], Buffer>("SELECT data FROM blocks WHERE pk = ?").pluck();
  const firstEnd = sqlite
    .prepare<[], number | null>(
      // From sensor to sensor along the index, and not through all of it.
      `WITH RECURSIVE s(pk) AS (
         SELECT min(sensor_pk) FROM blocks
         UNION ALL SELECT (SELECT min(sensor_pk) FROM blocks WHERE sensor_pk > s.pk) FROM s WHERE s.pk IS NOT NULL)
       SELECT min((SELECT end_at FROM blocks WHERE sensor_pk = s.pk ORDER BY start_at, start_id LIMIT 1))
       FROM s WHERE s.pk IS NOT NULL`,
    )
    .pluck();

  const sensorAfter = sqlite
    .prepare<[sensorPk: number], number | null>("SELECT min(sensor_pk) FROM blocks WHERE sensor_pk > ?")
    .pluck();

  let maxId: number | undefined;
  const ends = new Map<number, End>();
  const cache = new Map<number, Columns>();
  /** Blocks that could not be read when readings were to be put into them. */
  const unreadable = new Set<number>();
  /** Blocks that could not be removed, nor a part of them. */
  const stuck = new Set<number>();
  /** Blocks that could not be written: to make room, SQLite needs the pages beside theirs. */
  const unwritable = new Set<number>();

  function decode([pk, , , data]: BlockRow): Columns {
    const known = cache.get(pk);
    if (known !== undefined) return known;
    const decoded = decodeColumns(data);
    if (cache.size >= maxCached) cache.delete(cache.keys().next().value as number);
    cache.set(pk, decoded);
    return decoded;
  }

  const getMaxId = (): number => (maxId ??= highest.get() ?? 0);

  function endOf(sensorPk: number): End {
    let end = ends.get(sensorPk);
    if (end === undefined) {
      end = { newest: undefined, at: endAt.get(sensorPk) ?? -Infinity };
      ends.set(sensorPk, end);
    }
    return end;
  }

  function openCursor(sensorPk: number, before: Place): BlockCursor {
    let key = before;
    let block = emptyColumns();
    let i = -1;
    let bound = endOf(sensorPk).at;
    return {
      reaches(at) {
        while (i < 0) {
          if (bound < at) return false;
          const row = below.get(sensorPk, key.at, key.id);
          if (row === undefined) {
            bound = -Infinity;
            return false;
          }
          block = decode(row);
          i = placeIn(block, before) - 1;
          key = { at: row[1], id: row[2] };
          bound = row[1];
        }
        return (block.times[i] as number) >= at;
      },
      id: () => block.ids[i] as number,
      valueAt: () => block.times[i] as number,
      value: () => block.values[i] as number,
      step: () => void i--,
    };
  }

  /** Blocks that may hold readings in [from, to), in order. */
  function* blocksIn(sensorPk: number, from: number, to: number): Generator<BlockRow> {
    // The one that begins before may reach in; those that begin at `from` or later come after it.
    let row = below.get(sensorPk, from, 0) ?? above.get(sensorPk, from, 0);
    while (row !== undefined && row[1] < to) {
      yield row;
      row = above.get(sensorPk, row[1], row[2]);
    }
  }

  function findBlock(id: number): { row: [sensorPk: number, ...BlockRow]; block: Columns; i: number } | undefined {
    if (id > getMaxId()) return undefined;
    for (const row of byIds.all(id, id + 1)) {
      const block = decodeColumns(row[4]);
      const i = block.ids.indexOf(id);
      if (i >= 0) return { row, block, i };
    }
    return undefined;
  }

  function noteChange(sensorPk: number): void {
    ends.delete(sensorPk);
    onChange(sensorPk);
  }

  /** Puts readings in the place of a block, or beside the others. `isLast`: none of the sensor's come after them. */
  function write(sensorPk: number, pk: number | undefined, readings: Columns, isLast = false): void {
    noteChange(sensorPk);
    if (readings.ids.length === 0) {
      if (pk !== undefined) drop(pk);
      return;
    }
    if (pk !== undefined) cache.delete(pk);
    for (const [i, values] of split(readings, isLast).entries()) {
      if (i === 0 && pk !== undefined) update.run({ pk, ...values });
      else insert.run({ sensorPk, ...values });
      if (maxId !== undefined && values.maxId > maxId) maxId = values.maxId;
    }
  }

  function drop(pk: number): void {
    remove.run(pk);
    cache.delete(pk);
    unreadable.delete(pk);
    unwritable.delete(pk);
    stuck.delete(pk);
  }

  /** A sensor's blocks, oldest first; those that are damaged are passed over from the second time on. */
  function* firstBlocks(sensorPk: number): Generator<[pk: number, ...Extent]> {
    let place = startAbove.get(sensorPk, -Infinity, 0);
    while (place !== undefined) {
      const [pk, startAt, startId] = place;
      const extent = stuck.has(pk) ? undefined : leaveAlone(stuck, pk, () => extentOf.get(pk));
      if (extent !== undefined) yield [pk, ...extent];
      place = startAbove.get(sensorPk, startAt, startId);
    }
  }

  /** Sensor by sensor, past those blocks that cannot be removed: they would always be the first. */
  function findFirstEnd(): number | undefined {
    let first: number | undefined;
    for (let pk = sensorAfter.get(-1) ?? undefined; pk !== undefined; pk = sensorAfter.get(pk) ?? undefined) {
      const end = firstEndOf(pk);
      if (end !== undefined && (first === undefined || end < first)) first = end;
    }
    return first;
  }

  function firstEndOf(sensorPk: number): number | undefined {
    for (;;) {
      const known = stuck.size;
      try {
        for (const [, , end] of firstBlocks(sensorPk)) return end;
        return undefined;
      } catch (error) {
        if (!isDamage(error) || stuck.size === known) throw error;
      }
    }
  }

  /** Where `work` finds a block damaged, SQLite writes nothing more in this transaction; it is left alone in the next. */
  function leaveAlone<T>(damaged: Set<number>, pk: number, work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (isDamage(error)) damaged.add(pk);
      throw error;
    }
  }

  function merge(sensorPk: number, added: Columns): void {
    const { ids, times } = added;
    for (let i = 0; i < ids.length;) {
      const at = times[i] as number;
      const id = ids[i] as number;
      // The block that begins before; the first one takes what is older than all.
      const taker = startBelow.get(sensorPk, at, id) ?? startAbove.get(sensorPk, at, id);
      if (taker === undefined) {
        write(sensorPk, undefined, slice(added, i, ids.length), true);
        return;
      }
      const [pk, startAt, startId] = taker;
      const next = startAbove.get(sensorPk, startAt, startId);
      const to = next === undefined ? ids.length : placeIn(added, { at: next[1], id: next[2] }, i);
      const isLast = next === undefined;
      if (unreadable.has(pk)) {
        // What is older than it does not reach beyond its beginning: blocks that can be read do not overlap.
        const older = placeIn(added, { at: startAt, id: startId }, i);
        const end = older > i ? older : to;
        write(sensorPk, undefined, slice(added, i, end), isLast && older === i);
        i = end;
      } else {
        putInto(sensorPk, pk, slice(added, i, to), isLast);
        i = to;
      }
    }
  }

  function putInto(sensorPk: number, pk: number, added: Columns, isLast: boolean): void {
    const { block, bytes } = leaveAlone(unreadable, pk, () => {
      const data = dataOf.get(pk);
      if (data === undefined) throw createDamage();
      return { block: decodeColumns(data), bytes: data.length };
    });
    leaveAlone(unwritable, pk, () => {
      // A full page that nothing reaches into stays as it is.
      const isFull = bytes >= maxBlockBytes * 0.9 || unwritable.has(pk);
      if (isFull && isBefore(block, block.ids.length - 1, added, 0)) write(sensorPk, undefined, added, isLast);
      else write(sensorPk, pk, interleave(block, added), isLast);
    });
  }

  return {
    maxId: getMaxId,
    endOf: (sensorPk) => endOf(sensorPk).at,
    newest(sensorPk) {
      const end = endOf(sensorPk);
      if (end.newest === undefined && end.at !== -Infinity) {
        const cursor = openCursor(sensorPk, { at: Infinity, id: 0 });
        if (cursor.reaches(end.at))
          end.newest = { id: cursor.id(), sensorPk, valueAt: cursor.valueAt(), value: cursor.value() };
      }
      return end.newest;
    },
    find(id) {
      const found = findBlock(id);
      if (found === undefined) return undefined;
      const { row, block, i } = found;
      return { id, sensorPk: row[0], valueAt: block.times[i] as number, value: block.values[i] as number };
    },
    openCursor,
    *visit(sensorPk, from, to, each) {
      if (endOf(sensorPk).at < from) return;
      for (const row of blocksIn(sensorPk, from, to)) {
        const { ids, times, values } = decodeColumns(row[3]); // a sweep would drive the others out of the cache
        for (let i = 0; i < ids.length; i++) {
          const at = times[i] as number;
          if (at >= from && at < to) each(values[i] as number, at, ids[i] as number);
        }
        yield;
      }
    },
    firstFrom(sensorPk, from) {
      if (endOf(sensorPk).at < from) return Infinity;
      for (const row of blocksIn(sensorPk, from, Infinity)) {
        const block = decode(row);
        const first = block.times[placeIn(block, { at: from, id: 0 })];
        if (first !== undefined) return first;
      }
      return Infinity;
    },
    listByIds(from, to) {
      const found: StoredReading[] = [];
      for (const [sensorPk, , , , data] of byIds.all(from, to)) {
        const { ids, times, values } = decodeColumns(data);
        for (let i = 0; i < ids.length; i++) {
          const id = ids[i] as number;
          if (id >= from && id < to)
            found.push({ id, sensorPk, valueAt: times[i] as number, value: values[i] as number });
        }
      }
      return found;
    },
    firstIdFrom: (from) => lowestFrom.get(from) ?? Infinity,
    merge,
    replace(id, valueAt, value) {
      const found = findBlock(id);
      if (found === undefined) return;
      const [sensorPk, pk] = found.row;
      const { block, i } = found;
      if (valueAt === block.times[i]) {
        block.values[i] = value;
        write(sensorPk, pk, block);
        return;
      }
      cut(block, i);
      write(sensorPk, pk, block);
      merge(sensorPk, { ids: [id], times: [valueAt], values: [value] });
    },
    remove(id) {
      const found = findBlock(id);
      if (found === undefined) return;
      cut(found.block, found.i);
      write(found.row[0], found.row[1], found.block);
    },
    removeOf(sensorPk, limit) {
      let removed = 0;
      for (const [pk, , , count] of firstBlocks(sensorPk)) {
        leaveAlone(stuck, pk, () => drop(pk));
        removed += count;
        if (removed >= limit) break;
      }
      noteChange(sensorPk);
      return removed;
    },
    removeBefore(sensorPk, { at, upToId }, limit) {
      const removed = { readings: 0, rows: 0 };
      for (const [pk, startAt, endAt, count, highestId] of firstBlocks(sensorPk)) {
        if (removed.rows >= limit || startAt >= at || highestId > upToId) break;
        if (endAt < at) {
          leaveAlone(stuck, pk, () => drop(pk));
          removed.readings += count;
          removed.rows += 1;
          continue;
        }
        leaveAlone(stuck, pk, () => {
          const block = decodeColumns(dataOf.get(pk) as Buffer);
          const gone = placeIn(block, { at, id: 0 });
          write(sensorPk, pk, slice(block, gone, block.ids.length), endOf(sensorPk).at === endAt);
          removed.readings += gone;
          removed.rows += rowsPerCut;
        });
        break;
      }
      if (removed.rows > 0) noteChange(sensorPk);
      return removed;
    },
    firstEnd() {
      if (stuck.size > 0) return findFirstEnd();
      try {
        return firstEnd.get() ?? undefined;
      } catch (error) {
        if (!isDamage(error)) throw error;
        return findFirstEnd();
      }
    },
    forgetCached() {
      maxId = undefined;
      ends.clear();
      cache.clear();
    },
  };
}
