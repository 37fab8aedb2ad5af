import type { Database } from "better-sqlite3";
import { openArrivals } from "./arrivals.ts";
import { createBlocks, type BlockCursor } from "./blocks.ts";
import type { Columns } from "./columns.ts";
import type { Steps } from "../steps.ts";
import type { Participant } from "./writer.ts";

// All readings. What comes is appended to the log of arrivals (arrivals.ts): one row a commit, whatever number of readings
// and sensors it holds, and the same readings in memory (tail.ts), ordered for queries. From time to time the older half is
// sealed: sorted into blocks, a page of compressed readings of one sensor each (blocks.ts). So a commit writes a page or
// two, whoever sends, and a chart over years reads a few hundred.

export interface StoredReading {
  id: number;
  sensorPk: number;
  valueAt: number;
  value: number;
}

/** A place in the order of a sensor's readings, (value_at, id). */
export interface Place {
  at: number;
  /** 0: before every reading of that instant. */
  id: number;
}

export interface PageQuery {
  sensorPk: number;
  /** Inclusive. */
  from: number;
  /** Exclusive. */
  before: Place;
  limit: number;
  /** So many of the newest are passed over. */
  skip?: number;
  /** Only readings up to this one. */
  upToId?: number;
}

export interface Visit {
  sensorPk: number;
  /** Inclusive. */
  from: number;
  /** Exclusive. */
  to: number;
  /** Only readings after this one. */
  afterId?: number;
  /** Only readings up to this one. */
  upToId?: number;
}

export interface Bound {
  /** Only what is older. */
  at: number;
  /** Only readings up to this id; a block that holds a later one stays whole. */
  upToId: number;
}

export interface Removed {
  readings: number;
  /** 0: there is nothing to remove. */
  rows: number;
}

export interface Readings {
  /** Ids rise in the order of appends, and none is ever given out again. `fingerprint`: see {@link fingerprints}. */
  append(sensorPk: number, valueAt: number, value: number, fingerprint?: number): number;
  get(id: number): StoredReading | undefined;
  /** The id of a reading of that sensor, instant and value. */
  findSame(sensorPk: number, valueAt: number, value: number): number | undefined;
  /** The newest by its own time; of one instant, the one that came last. */
  newest(sensorPk: number): StoredReading | undefined;
  /** Newest first; those of one instant in reverse order of arrival. */
  page(query: PageQuery): StoredReading[];
  /** Every reading of a sensor in a range, in no particular order. */
  visit(range: Visit, each: (value: number, valueAt: number, id: number) => void): Steps<void>;
  /**
   * Changes whenever what is stored of a sensor, or the readings of any, change, but for what is appended: that has higher
   * ids.
   */
  revisionOf(sensorPk: number | undefined): number;
  /** What others keep of a sensor, its sums, has changed. */
  noteRevision(sensorPk: number): void;
  /** The first and the last instant in [from, to) at which a sensor has a reading. */
  bounds(sensorPk: number, from: number, to: number): { first: number; last: number } | undefined;
  /** The next readings of whatever sensors after the reading `id`, in the order of arrival. */
  after(id: number, limit: number): StoredReading[];
  /** The same, one by one, while `each` wants more. `about`: so many it will be. */
  visitAfter(
    id: number,
    about: number,
    each: (id: number, sensorPk: number, valueAt: number, value: number) => boolean,
  ): void;
  /** A sensor's readings after `afterId` and up to `upToId` that wait in memory, in the order of arrival, while `each` wants more. */
  visitWaiting(
    sensorPk: number,
    afterId: number,
    upToId: number,
    each: (id: number, valueAt: number, value: number) => boolean,
  ): void;
  /** The sensors whose readings wait in memory, in the order of their pks. */
  sensorsWaiting(): number[];
  /** All before it are sealed, or gone. */
  firstWaitingId(): number;
  /** The id that was given out last; 0 where none ever was. */
  lastId(): number;
  replace(id: number, valueAt: number, value: number): void;
  remove(id: number): void;
  /** Removes about `limit` readings of a sensor. @returns how many; 0: none are left */
  removeOf(sensorPk: number, limit: number): number;
  /**
   * Removes a sensor's readings before an instant, `limit` rows of the store at most: a row is a block of a thousand or
   * so, or a few readings that are in no block yet. Whole blocks go first, then the one that reaches beyond is cut.
   */
  removeBefore(sensorPk: number, bound: Bound, limit: number): Removed;
  /** The instant at which that block ends, of whatever sensor, that ends first; `undefined` where nothing is sealed. */
  firstSealedEnd(): number | undefined;
  /** What was given to the last appends as fingerprint, oldest first, `limit` of them at most. */
  fingerprints(limit: number): number[];
  /**
   * Goes on with the sealing of what came up to the reading `upToId`, about `limit` readings at a time, where more wait
   * in memory than are to.
   * @returns true where there is more to do
   */
  seal(upToId: number, limit: number): boolean;
  /** Whether {@link seal} would have something to do. */
  isSealingDue(): boolean;
  /** When more wait in memory than so many, the older half is to be sealed. */
  maxRecent: number;
}

export interface ReadingsOptions {
  /** So many wait in memory, 40 bytes each, before the older half is sealed. */
  maxRecent?: number;
  /** So many rows of arrivals are put into one. */
  joinRows?: number;
}

/** To take so many readings out of the log of arrivals takes as long as to remove a block. */
const readingsPerRow = 4;
/** To visit so many readings in memory takes about 0.1 ms. */
const readingsPerStep = 4_096;

export function createReadings(
  sqlite: Database,
  { maxRecent = 131_072, joinRows = 1_024 }: ReadingsOptions = {},
): Readings & Participant {
  /** Of each sensor that has changed since the start. */
  const revisions = new Map<number, number>();
  let revisionOfAll = 0;
  let lastRevision = 0;
  /** The last one that was for readings, and not for what others keep of a sensor. */
  let revisionOfReadings = 0;
  const noteRevision = (sensorPk: number): void => void revisions.set(sensorPk, ++lastRevision);
  function noteChange(sensorPk: number): void {
    noteRevision(sensorPk);
    revisionOfReadings = lastRevision;
  }
  const blocks = createBlocks(sqlite, noteChange);
  const arrivals = openArrivals(sqlite, blocks.maxId(), joinRows);
  const { tail } = arrivals;
  /** The sealing under way: readings up to an id, of the sensors that are still to come. */
  let round: { upToId: number; sensors: number[] } | undefined;

  const isSealingDue = (): boolean =>
    round !== undefined || tail.next() - tail.first() > maxRecent || arrivals.isJoinDue();

  const fromTail = (sensorPk: number, id: number): StoredReading => ({
    id,
    sensorPk,
    valueAt: tail.timeOf(id),
    value: tail.valueOf(id),
  });

  function findSame(sensorPk: number, valueAt: number, value: number): number | undefined {
    const ids = tail.ofSensor(sensorPk);
    const last = ids[ids.length - 1];
    // The usual case is that it is the newest of all.
    if (last !== undefined && tail.timeOf(last) >= valueAt) {
      for (let i = tail.placeOf(ids, valueAt, 0); i < ids.length; i++) {
        const id = ids[i] as number;
        if (tail.timeOf(id) !== valueAt) break;
        if (tail.valueOf(id) === value) return id;
      }
    }
    if (blocks.endOf(sensorPk) < valueAt) return undefined;
    const cursor = blocks.openCursor(sensorPk, { at: valueAt, id: Number.MAX_SAFE_INTEGER });
    for (; cursor.reaches(valueAt); cursor.step()) if (cursor.value() === value) return cursor.id();
    return undefined;
  }

  function page({ sensorPk, from, before, limit, skip = 0, upToId = Infinity }: PageQuery): StoredReading[] {
    const rows: StoredReading[] = [];
    const ids = tail.ofSensor(sensorPk);
    let left = skip;
    let i = tail.placeOf(ids, before.at, before.id) - 1;
    let cursor: BlockCursor | undefined;
    const blocksEnd = blocks.endOf(sensorPk);
    while (rows.length < limit) {
      const id = i >= 0 ? (ids[i] as number) : 0;
      const tailAt = i >= 0 ? tail.timeOf(id) : -Infinity;
      const least = tailAt < from ? from : tailAt;
      // Of one instant, what is in the tail came later than what is in blocks.
      const isInBlock =
        blocksEnd >= least &&
        (cursor ??= blocks.openCursor(sensorPk, before)).reaches(least) &&
        cursor.valueAt() > tailAt;
      if (!isInBlock && (i < 0 || tailAt < from)) break;
      const readingId = isInBlock ? (cursor as BlockCursor).id() : id;
      if (readingId <= upToId && left > 0) left -= 1;
      else if (readingId <= upToId) {
        const valueAt = isInBlock ? (cursor as BlockCursor).valueAt() : tailAt;
        const value = isInBlock ? (cursor as BlockCursor).value() : tail.valueOf(id);
        rows.push({ id: readingId, sensorPk, valueAt, value });
      }
      if (isInBlock) (cursor as BlockCursor).step();
      else i -= 1;
    }
    return rows;
  }

  function visitAfter(
    id: number,
    about: number,
    each: (id: number, sensorPk: number, valueAt: number, value: number) => boolean,
  ): void {
    let from = id + 1;
    const maxSealed = blocks.maxId();
    while (from <= maxSealed) {
      // Ids are dense, but for sensors whose readings are gone: about as many of them as readings.
      const to = from + about;
      const window = blocks.listByIds(from, to);
      for (let next = Math.max(from, tail.first()); next < Math.min(to, tail.next()); next++) {
        const arrival = tail.get(next);
        if (arrival !== undefined) window.push(fromTail(arrival.sensorPk, next));
      }
      window.sort((a, b) => a.id - b.id);
      for (const row of window) if (!each(row.id, row.sensorPk, row.valueAt, row.value)) return;
      from = window.length > 0 ? to : Math.max(to, Math.min(blocks.firstIdFrom(to), tail.first()));
    }
    for (let next = Math.max(from, tail.first()); next < tail.next(); next++) {
      const arrival = tail.get(next);
      if (arrival !== undefined && !each(next, arrival.sensorPk, arrival.valueAt, arrival.value)) return;
    }
  }

  function after(id: number, limit: number): StoredReading[] {
    const rows: StoredReading[] = [];
    visitAfter(id, limit, (id, sensorPk, valueAt, value) => {
      rows.push({ id, sensorPk, valueAt, value });
      return rows.length < limit;
    });
    return rows;
  }

  function visitWaiting(
    sensorPk: number,
    afterId: number,
    upToId: number,
    each: (id: number, valueAt: number, value: number) => boolean,
  ): void {
    const ids: number[] = [];
    let isInOrder = true;
    for (const id of tail.ofSensor(sensorPk)) {
      if (id <= afterId || id > upToId) continue;
      isInOrder &&= ids.length === 0 || id > (ids[ids.length - 1] as number);
      ids.push(id);
    }
    if (!isInOrder) ids.sort((a, b) => a - b);
    for (const id of ids) if (!each(id, tail.timeOf(id), tail.valueOf(id))) return;
  }

  function removeFromTail(sensorPk: number, ids: readonly number[]): void {
    noteChange(sensorPk);
    arrivals.remove(sensorPk, ids);
  }

  /** Readings up to there can be sealed without tearing a row of arrivals apart; `undefined`: too few to be worth it. */
  function findBoundary(upToId: number): number | undefined {
    if (tail.next() - tail.first() <= maxRecent) return undefined;
    const half = (tail.next() - tail.first()) >> 1;
    return arrivals.findRowEnd(Math.min(tail.first() + half - 1, upToId));
  }

  /** `limit` of a sensor's readings at most, those that came first. @returns how many; fewer than `limit`: none are left */
  function sealSensor(sensorPk: number, endId: number, limit: number): number {
    let upToId = endId;
    let ids = tail.ofSensor(sensorPk).filter((id) => id <= upToId);
    if (ids.length === 0) return 0;
    if (ids.length > limit) {
      upToId = Float64Array.from(ids).toSorted()[limit - 1] as number;
      ids = ids.filter((id) => id <= upToId);
    }
    const columns: Columns = { ids, times: ids.map(tail.timeOf), values: ids.map(tail.valueOf) };
    blocks.merge(sensorPk, columns);
    arrivals.takeOut(sensorPk, ids, upToId);
    return ids.length;
  }

  return {
    append: (sensorPk, valueAt, value, fingerprint = 0) => arrivals.append(sensorPk, valueAt, value, fingerprint),
    get(id) {
      const arrival = tail.get(id);
      return arrival === undefined ? blocks.find(id) : fromTail(arrival.sensorPk, id);
    },
    findSame,
    newest(sensorPk) {
      const ids = tail.ofSensor(sensorPk);
      const last = ids[ids.length - 1];
      if (last !== undefined && tail.timeOf(last) >= blocks.endOf(sensorPk)) return fromTail(sensorPk, last);
      return blocks.newest(sensorPk);
    },
    page,
    *visit({ sensorPk, from, to, afterId = 0, upToId = Infinity }, each) {
      const visitOne = (value: number, at: number, id: number): void => {
        if (id > afterId && id <= upToId) each(value, at, id);
      };
      if (blocks.maxId() > afterId) yield* blocks.visit(sensorPk, from, to, visitOne);
      let ids = tail.ofSensor(sensorPk);
      let untilPause = readingsPerStep;
      for (let i = tail.placeOf(ids, from, 0); i < ids.length; i++) {
        const id = ids[i] as number;
        const at = tail.timeOf(id);
        if (at >= to) break;
        visitOne(tail.valueOf(id), at, id);
        if (--untilPause > 0) continue;
        untilPause = readingsPerStep;
        yield;
        // What has come meanwhile may lie before this one.
        ids = tail.ofSensor(sensorPk);
        i = tail.placeOf(ids, at, id);
      }
    },
    revisionOf: (sensorPk) =>
      sensorPk === undefined ? revisionOfReadings : Math.max(revisions.get(sensorPk) ?? 0, revisionOfAll),
    noteRevision,
    bounds(sensorPk, from, to) {
      const [newest] = page({ sensorPk, from, before: { at: to, id: 0 }, limit: 1 });
      if (newest === undefined) return undefined;
      const ids = tail.ofSensor(sensorPk);
      const oldest = ids[tail.placeOf(ids, from, 0)];
      const inTail = oldest === undefined ? Infinity : tail.timeOf(oldest);
      return { first: Math.min(inTail, blocks.firstFrom(sensorPk, from)), last: newest.valueAt };
    },
    after,
    visitAfter,
    visitWaiting,
    sensorsWaiting: () => tail.sensors().toSorted((a, b) => a - b),
    firstWaitingId: tail.first,
    lastId: () => tail.next() - 1,
    replace(id, valueAt, value) {
      const arrival = tail.get(id);
      if (arrival === undefined) {
        blocks.replace(id, valueAt, value);
        return;
      }
      noteChange(arrival.sensorPk);
      arrivals.replace(id, valueAt, value);
    },
    remove(id) {
      const arrival = tail.get(id);
      if (arrival === undefined) blocks.remove(id);
      else removeFromTail(arrival.sensorPk, [id]);
    },
    removeOf(sensorPk, limit) {
      const sealed = blocks.removeOf(sensorPk, limit);
      if (sealed >= limit) return sealed;
      const ids = tail.ofSensor(sensorPk).slice(0, limit - sealed);
      if (ids.length > 0) removeFromTail(sensorPk, ids);
      return sealed + ids.length;
    },
    removeBefore(sensorPk, bound, limit) {
      const { readings, rows } = blocks.removeBefore(sensorPk, bound, limit);
      const ids = tail.ofSensor(sensorPk);
      const oldest = ids[0];
      if (rows >= limit || oldest === undefined || tail.timeOf(oldest) >= bound.at) return { readings, rows };
      const old: number[] = [];
      for (const id of ids) {
        if (tail.timeOf(id) >= bound.at || old.length >= (limit - rows) * readingsPerRow) break;
        if (id <= bound.upToId) old.push(id);
      }
      if (old.length > 0) removeFromTail(sensorPk, old);
      return { readings: readings + old.length, rows: rows + Math.ceil(old.length / readingsPerRow) };
    },
    firstSealedEnd: blocks.firstEnd,
    fingerprints(limit) {
      const found: number[] = [];
      for (let id = tail.next() - 1; id >= tail.first() && found.length < limit; id--) {
        const { fingerprint } = tail.at(id);
        if (fingerprint !== 0) found.push(fingerprint);
      }
      return found.toReversed();
    },
    seal(upToId, limit) {
      if (round === undefined) {
        if (arrivals.join()) return true;
        const boundary = findBoundary(upToId);
        if (boundary === undefined) return false;
        round = { upToId: boundary, sensors: tail.sensors() };
      }
      for (let left = limit; left > 0;) {
        const sensorPk = round.sensors.at(-1);
        if (sensorPk === undefined) {
          if (arrivals.trim(round.upToId)) round = undefined;
          return true;
        }
        // A sensor whose blocks are damaged stays in line until that has been got round (see Blocks.merge): what is not in
        // blocks must not go from the log.
        const done = sealSensor(sensorPk, round.upToId, left);
        if (done < left) round.sensors.pop();
        left -= done;
      }
      return true;
    },
    isSealingDue,
    maxRecent,

    mark: arrivals.mark,
    hasChanged: arrivals.hasChanged,
    undo(mark) {
      arrivals.undo(mark);
      blocks.forgetCached();
      revisionOfAll = revisionOfReadings = ++lastRevision;
      // It starts anew: what had been sealed before is not in the tail any more.
      round = undefined;
    },
    beforeCommit: arrivals.beforeCommit,
    settle: arrivals.settle,
  };
}
