import type { Database } from "better-sqlite3";
import { decodeArrivals, encodeArrivals } from "./columns.ts";
import { createTail, type Mark, type Tail } from "./tail.ts";
import type { Participant } from "./writer.ts";

// The log of arrivals: the table `arrivals`, a row a commit, and the same readings in memory (tail.ts). What comes is added
// at its end, what changes is written anew in its place, what is in blocks goes from its beginning. A start reads it back.

/** Its part in the writer's transactions: a commit writes down what has come and what has changed. */
export interface Arrivals extends Participant {
  /** What the log holds, and what the next commit adds. To be read: what changes it are the functions below. */
  readonly tail: Tail;
  append: Tail["append"];
  replace: Tail["replace"];
  /** Removes a sensor's readings; their ids, and the fingerprints they came with, stay. */
  remove: Tail["remove"];
  /**
   * Goes on with putting short rows together. Not amid a sealing: that ends where a row ends.
   * @returns true where there may be more to do
   */
  join(): boolean;
  /** Whether so many rows have come that {@link join} is worth it. */
  isJoinDue(): boolean;
  /** The last id, up to `upToId`, with which a row ends after which another one follows; `undefined` where none does. */
  findRowEnd(upToId: number): number | undefined;
  /** Readings of a sensor are in blocks now, all that it has up to an id. Their rows stay until {@link trim}. */
  takeOut(sensorPk: number, ids: readonly number[], upToId: number): void;
  /**
   * Goes on with removing the rows up to an id, all of whose readings are in blocks, and then forgets them.
   * @returns true where it is done
   */
  trim(upToId: number): boolean;
}

/** Readings that one row holds at the most, of those that are put together. */
const maxJoined = 8_192;
/** Rows of so many readings are left as they are. */
const longEnough = 64;
/** Rows that are removed in one step. */
const rowsPerStep = 4_000;

type Row = [firstId: number, count: number];

/**
 * Reads the log back, as a start does.
 * @param maxSealedId where the log is empty, ids go on after this one
 * @param joinRows so many rows are put into one
 */
export function openArrivals(sqlite: Database, maxSealedId: number, joinRows: number): Arrivals {
  const insert = sqlite.prepare<[firstId: number, count: number, data: Buffer]>(
    "INSERT INTO arrivals (first_id, count, data) VALUES (?, ?, ?)",
  );
  const update = sqlite.prepare<[data: Buffer, firstId: number]>("UPDATE arrivals SET data = ? WHERE first_id = ?");
  const find = sqlite
    .prepare<[id: number], Row>(
      "SELECT first_id, count FROM arrivals WHERE first_id <= ? ORDER BY first_id DESC LIMIT 1",
    )
    .raw();
  const removeFirst = sqlite.prepare<[upToId: number, limit: number]>(
    "DELETE FROM arrivals WHERE first_id IN (SELECT first_id FROM arrivals WHERE first_id <= ? ORDER BY first_id LIMIT ?)",
  );
  const count = sqlite
    .prepare<[fromId: number, toId: number], number>(
      "SELECT count(*) FROM arrivals WHERE first_id >= ? AND first_id < ?",
    )
    .pluck();
  const removeRange = sqlite.prepare<[fromId: number, toId: number]>(
    "DELETE FROM arrivals WHERE first_id >= ? AND first_id < ?",
  );
  const putSealed = sqlite.prepare<[sensorPk: number, upToId: number]>(
    "INSERT OR REPLACE INTO sealed (sensor_pk, up_to_id) VALUES (?, ?)",
  );
  const clearSealed = sqlite.prepare("DELETE FROM sealed");

  const tail = loadTail(sqlite, maxSealedId);
  /** What has been written down: everything below. */
  let written = tail.next();
  /** Written readings that have changed since. */
  let changed: number[] = [];
  /** Everything below is in blocks, and its rows are gone. */
  let forgetBelow: number | undefined;
  /** Rows before that hold many readings each; so many have come since. */
  let joinedTo = tail.first();
  let rowsSince = joinRows;
  /** What `joinedTo` becomes when the transaction is committed. */
  let joining: number | undefined;

  const encode = (from: number, length: number): Buffer => encodeArrivals(length, (i) => tail.at(from + i));

  const isJoinDue = (): boolean => rowsSince >= joinRows;

  /** Where a row ends after `from`: within so many ids, or the first one where that is longer. */
  function endOfRowsWithin(from: number, ids: number): number {
    const [firstId, length] = find.get(from + ids) as Row;
    return firstId > from ? firstId : firstId + length;
  }

  /** The rows in which readings are written down, each once. */
  function rowsOf(ids: readonly number[]): Row[] {
    const rows = new Map<number, Row>();
    for (const id of ids) {
      const row = find.get(id);
      if (row !== undefined) rows.set(row[0], row);
    }
    return [...rows.values()];
  }

  return {
    tail,
    append: tail.append,
    replace(id, valueAt, value) {
      tail.replace(id, valueAt, value);
      if (id < written) changed.push(id);
    },
    remove(sensorPk, ids) {
      tail.remove(sensorPk, ids);
      for (const id of ids) if (id < written) changed.push(id);
    },
    // A reading a second is a row each. Put together they are smaller, and a start that reads a hundred thousand back does
    // not take a second.
    join() {
      const from = Math.max(joinedTo, tail.first());
      const isWhole = written - from >= maxJoined;
      if (forgetBelow !== undefined || joining !== undefined) return false;
      if (!isWhole && !isJoinDue()) return false;
      const to = isWhole ? endOfRowsWithin(from, maxJoined) : written;
      const rows = count.get(from, to) ?? 0;
      if (rows > 1 && (to - from) / rows < longEnough) {
        removeRange.run(from, to);
        insert.run(from, to - from, encode(from, to - from));
      }
      joining = to;
      return isWhole;
    },
    isJoinDue,
    findRowEnd(upToId) {
      const row = find.get(Math.min(upToId + 1, written - 1));
      return row === undefined || row[0] <= tail.first() ? undefined : row[0] - 1;
    },
    takeOut(sensorPk, ids, upToId) {
      putSealed.run(sensorPk, upToId);
      tail.remove(sensorPk, ids);
    },
    trim(upToId) {
      if (removeFirst.run(upToId, rowsPerStep).changes === rowsPerStep) return false;
      clearSealed.run();
      forgetBelow = upToId + 1;
      return true;
    },

    mark: () => tail.mark(),
    hasChanged(mark) {
      const { next, changes } = mark as Mark;
      const now = tail.mark();
      return now.next !== next || now.changes !== changes;
    },
    undo(mark) {
      tail.undo(mark as Mark);
      forgetBelow = undefined;
      joining = undefined;
    },
    beforeCommit() {
      for (const [firstId, length] of rowsOf(changed)) update.run(encode(firstId, length), firstId);
      const length = tail.next() - written;
      if (length > 0) insert.run(written, length, encode(written, length));
    },
    settle() {
      tail.settle();
      if (tail.next() > written) rowsSince += 1;
      written = tail.next();
      if (joining !== undefined) {
        joinedTo = joining;
        joining = undefined;
        rowsSince = 0;
      }
      if (changed.length > 0) changed = [];
      if (forgetBelow !== undefined) {
        tail.forget(forgetBelow);
        forgetBelow = undefined;
      }
    },
  };
}

/** What waits to be sealed, from the arrivals; what a round that was broken off has sealed already is left out. */
function loadTail(sqlite: Database, maxSealedId: number): Tail {
  const sealed = new Map(
    sqlite.prepare<[], [sensorPk: number, upToId: number]>("SELECT sensor_pk, up_to_id FROM sealed").raw().all(),
  );
  let tail: Tail | undefined;
  const rows = sqlite
    .prepare<[], [firstId: number, data: Buffer]>("SELECT first_id, data FROM arrivals ORDER BY first_id")
    .raw();
  for (const [firstId, data] of rows.iterate()) {
    tail ??= createTail(firstId);
    while (tail.next() < firstId) tail.append(0, 0, 0, 0);
    const into = tail;
    decodeArrivals(data, (i, sensorPk, valueAt, value, fingerprint) => {
      const isSealed = firstId + i <= (sealed.get(sensorPk) ?? 0);
      into.append(isSealed ? 0 : sensorPk, valueAt, value, fingerprint);
    });
  }
  tail ??= createTail(maxSealedId + 1);
  tail.settle();
  return tail;
}
