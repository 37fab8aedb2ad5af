import { asc, eq, gt } from "drizzle-orm";
import { sensors } from "../store/schema.ts";
import { firstInstant } from "../store/sources.ts";
import type { Ctx } from "./ctx.ts";
import { prepareOnce } from "./prepared.ts";
import { floorTo, readWatermark, rollupWidths } from "./rollups.ts";

// What is kept how long. Readings go when they are old, a day's at once, or, where the store is to stay below a size, the
// oldest first, an hour's at once; their sums by hour and day stay, for years. A sensor carries the instant before which
// its readings have been dropped, a whole hour: from then on they are out of reach for everybody, while their rows go in
// small steps, and no hour before it is ever summed anew. What is stored for such an hour all the same, history that a
// device brings along, is added to the sums like every other reading, and then goes the same way.

const { hour, day } = rollupWidths;

export interface RetentionPolicy {
  /** Days for which readings are kept; 0: for ever. */
  rawDays: number;
  /** Days for which sums by hour and day are kept, and never shorter than the readings themselves; 0: for ever. */
  rollupDays: number;
}

// The `+` keeps the planner from planning anew for each value.
const statements = prepareOnce(({ $client }) => ({
  droppedBefore: $client
    .prepare<[sensorPk: number], number | null>("SELECT dropped_before FROM sensors WHERE pk = +?")
    .pluck(),
  oldRollup: $client
    .prepare<[width: number, sensorPk: number, before: number], number>(
      "SELECT 1 FROM rollups WHERE width = +? AND sensor_pk = +? AND start_at < +? LIMIT 1",
    )
    .pluck(),
  trimRollups: $client.prepare<[width: number, sensorPk: number, before: number, limit: number]>(
    `DELETE FROM rollups WHERE (width, sensor_pk, start_at) IN
       (SELECT width, sensor_pk, start_at FROM rollups WHERE width = +? AND sensor_pk = +? AND start_at < +?
        ORDER BY start_at LIMIT ?)`,
  ),
  pages: $client.prepare<[], number>("PRAGMA page_count").pluck(),
  freePages: $client.prepare<[], number>("PRAGMA freelist_count").pluck(),
  pageBytes: $client.prepare<[], number>("PRAGMA page_size").pluck(),
}));

export { firstInstant };

/** A sensor's readings before this instant are out of reach; what its hours hold is to be had from the rollups alone. */
export const readDroppedBefore = (ctx: Ctx, sensorPk: number): number =>
  statements(ctx.db).droppedBefore.get(sensorPk) ?? firstInstant;

/** Whole days: what is kept for a day is there for a day, and goes in the course of the next one. */
const limitOf = (ctx: Ctx, days: number): number => (days === 0 ? firstInstant : floorTo(ctx.now(), day) - days * day);

/** One round over all sensors. */
export interface Sweep {
  policy: RetentionPolicy;
  /** Readings before this instant go, however long they were to be kept. */
  before: number;
  /** Later readings stay for now: not everybody who is to be told of them has seen them. */
  upToId: number;
}

export interface SweepStep {
  /** Where to go on; `undefined`: the round is over. */
  afterPk: number | undefined;
  readings: number;
  rollups: number;
}

/** With what they take along in indexes, so many rows of the store take a millisecond or two. */
const rowsPerStep = 64;
/** Rollups lie side by side: so many take as long as one of the others. */
const rollupsPerRow = 4;
/** To look at a sensor that has nothing to give takes 10 to 20 µs. */
const sensorsPerStep = 50;

/**
 * Removes what is old of the next sensors after `afterPk` (from 0), a millisecond or two's worth. What the rollups do not
 * hold yet stays.
 */
export function sweepStep(ctx: Ctx, { policy, before, upToId }: Sweep, afterPk: number): SweepStep {
  const bound = { upToId: Math.min(upToId, readWatermark(ctx)) };
  const step: SweepStep = { afterPk, readings: 0, rollups: 0 };
  const { oldRollup, trimRollups } = statements(ctx.db);
  let rowsLeft = rowsPerStep;
  const next = ctx.db
    .select({ pk: sensors.pk, retentionDays: sensors.retentionDays, droppedBefore: sensors.droppedBefore })
    .from(sensors)
    .where(gt(sensors.pk, afterPk))
    .orderBy(asc(sensors.pk))
    .limit(sensorsPerStep)
    .all();
  for (const { pk, retentionDays, droppedBefore } of next) {
    const rawLimit = limitOf(ctx, retentionDays ?? policy.rawDays);
    const at = Math.max(rawLimit, before, droppedBefore ?? firstInstant);
    const removed = ctx.readings.removeBefore(pk, { ...bound, at }, rowsLeft);
    if (removed.rows > 0 && at !== droppedBefore)
      ctx.db.update(sensors).set({ droppedBefore: at }).where(eq(sensors.pk, pk)).run();
    step.readings += removed.readings;
    rowsLeft -= removed.rows;
    const rollupLimit = Math.min(rawLimit, limitOf(ctx, policy.rollupDays));
    for (const width of [hour, day]) {
      // To ask costs less than to remove nothing.
      if (rowsLeft <= 0 || oldRollup.get(width, pk, rollupLimit) === undefined) continue;
      const { changes } = trimRollups.run(width, pk, rollupLimit, rowsLeft * rollupsPerRow);
      ctx.readings.noteRevision(pk);
      step.rollups += changes;
      rowsLeft -= Math.ceil(changes / rollupsPerRow);
    }
    if (rowsLeft <= 0) return step; // this sensor may have more
    step.afterPk = pk;
  }
  if (next.length < sensorsPerStep) step.afterPk = undefined;
  return step;
}

export interface StoreSize {
  /** Of the store's file, the log beside it not counted. */
  bytes: number;
  /** What of it nothing is in. */
  freeBytes: number;
  pageBytes: number;
}

export function measureStore({ db }: Ctx): StoreSize {
  const { pages, freePages, pageBytes } = statements(db);
  const size = pageBytes.get() as number;
  return { bytes: (pages.get() as number) * size, freeBytes: (freePages.get() as number) * size, pageBytes: size };
}

/** The least of the time that is kept which goes in one round. */
const shareOfRound = 1 / 50;

/**
 * Up to where readings have to go for the store to become smaller: beyond the end of the oldest block at least.
 * @returns `undefined` where only the last hour would be left to take from
 */
export function chooseCut(ctx: Ctx): number | undefined {
  const end = ctx.readings.firstSealedEnd();
  if (end === undefined) return undefined;
  const now = floorTo(ctx.now(), hour);
  const cut = floorTo(end + Math.max(0, now - end) * shareOfRound, hour) + hour;
  return cut <= now ? cut : undefined;
}

/** Gives up to `pages` that nothing is in back to the disk. The file becomes shorter when its log is carried over. */
export const giveBack = ({ db }: Ctx, pages: number): void => void db.$client.pragma(`incremental_vacuum(${pages})`);

/** Carries the log over into the store's file, which waits for the disk, and gives its room back. */
export const carryOver = ({ db }: Ctx): void => void db.$client.pragma("wal_checkpoint(TRUNCATE)");
