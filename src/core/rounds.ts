import { and, count, eq, sql } from "drizzle-orm";
import { rollups, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { readProgress, setProgress } from "./progress.ts";
import {
  collectHours,
  floorTo,
  readRollupProgress,
  readWatermark,
  rollupWidths,
  watermarkOf,
  setRollupProgress,
  type RollupProgress,
} from "./rollups.ts";
import { formatInstant } from "./time.ts";
import { enqueueEvent } from "./webhooks.ts";

// How the sums by hour and day are kept up: in rounds, seldom, since each writes two rows of every sensor anew, which lie in
// pages of their own. A round takes what has come up to its beginning, sensor by sensor, in small steps; between them, and
// after a restart, it is known how far it has come.

const { hour, day } = rollupWidths;

/** So many readings, or rows of hours with their days', take a few milliseconds; then everybody else has a turn. */
const readingsPerStep = 10_000;
const hoursPerStep = 150;
/** A round is worth it for so many readings, and for so many of each sensor. */
const readingsPerRound = 8_192;
export const readingsOfEach = 256;
/** What is sealed already, after a move from an earlier schema, is looked for block by block. */
const sealedPerStep = 2_000;

const beganName = "rollups.began";

/** True where the rollups hold every reading. */
export const isRolledUp = (ctx: Ctx): boolean => readWatermark(ctx) >= ctx.readings.lastId();

type Hours = ReturnType<typeof collectHours>;

/**
 * Sums up the next readings, `limit` of them at most.
 * @returns true where there is more to do
 */
export function rollUpStep(ctx: Ctx, limit: number): boolean {
  const round = readRollupProgress(ctx);
  if (round.upTo === round.doneTo) {
    round.upTo = ctx.readings.lastId();
    setProgress(ctx, beganName, ctx.now());
  }
  const hours = collectHours();
  const isOver =
    round.doneTo + 1 < ctx.readings.firstWaitingId()
      ? addSealed(ctx, hours, round, Math.min(limit, sealedPerStep))
      : addWaiting(ctx, hours, round, limit);
  hours.addToRollups(ctx);
  const { upTo } = round;
  setRollupProgress(ctx, isOver ? { doneTo: upTo, upTo, sensorPk: 0, sensorTo: upTo } : round);
  return !isRolledUp(ctx);
}

/** In the order of arrival. @returns true where the round is over */
function addSealed(ctx: Ctx, hours: Hours, round: RollupProgress, limit: number): boolean {
  let left = limit;
  ctx.readings.visitAfter(round.doneTo, limit, (id, sensorPk, valueAt, value) => {
    if (id > round.upTo) return false;
    // Of some sensors the round may have been further when they were sealed.
    if (id > watermarkOf(round, sensorPk)) hours.add(sensorPk, valueAt, value);
    round.doneTo = id;
    left -= 1;
    return left > 0;
  });
  round.sensorTo = Math.max(round.sensorTo, round.doneTo);
  return left > 0;
}

/** Sensor by sensor, each in the order of arrival. @returns true where the round is over */
function addWaiting(ctx: Ctx, hours: Hours, round: RollupProgress, limit: number): boolean {
  let left = limit;
  const isFull = (): boolean => left <= 0 || hours.size() >= hoursPerStep;
  for (const sensorPk of ctx.readings.sensorsWaiting()) {
    if (sensorPk < round.sensorPk) continue;
    if (sensorPk > round.sensorPk) {
      round.sensorPk = sensorPk;
      round.sensorTo = round.doneTo;
    }
    ctx.readings.visitWaiting(sensorPk, round.sensorTo, round.upTo, (id, valueAt, value) => {
      hours.add(sensorPk, valueAt, value);
      round.sensorTo = id;
      left -= 1;
      return !isFull();
    });
    if (isFull()) return false;
  }
  return true;
}

/**
 * Whether summing up is worth it now: nobody waits for it but those who want to know when an hour is over, and the sealing,
 * which takes the older half of what is in memory. `wantedUpTo`: everything up to that reading is to be in the sums.
 */
export function isRollUpDue(ctx: Ctx, wantedUpTo = 0): boolean {
  const { doneTo, upTo } = readRollupProgress(ctx);
  if (doneTo < upTo || doneTo < wantedUpTo || !arePeriodsComplete(ctx)) return true;
  const ahead = ctx.readings.lastId() - doneTo;
  const atMost = ctx.readings.maxRecent / 2;
  if (ahead < Math.min(readingsPerRound, atMost)) return false;
  return ahead >= Math.min(readingsOfEach * ctx.readings.sensorsWaiting().length, atMost);
}

/** A step of the background work. At the end of a round it tells of the hours and days that were over at its beginning. */
export function rollUp(ctx: Ctx): void {
  rollUpStep(ctx, readingsPerStep);
  const { doneTo, upTo } = readRollupProgress(ctx);
  if (doneTo === upTo && !arePeriodsComplete(ctx)) completePeriods(ctx, readProgress(ctx, beganName));
}

const periods = [
  { period: "hour", width: hour },
  { period: "day", width: day },
] as const;

/** Periods that went by while the gateway was off are told of afterwards, so many at the most. */
const maxMissedPeriods = 48;

const toldName = (period: string): string => `completed.${period}`;

/** True where every hour and day that is over has been told of. */
const arePeriodsComplete = (ctx: Ctx): boolean =>
  periods.every(({ period, width }) => readProgress(ctx, toldName(period)) === floorTo(ctx.now(), width));

/**
 * Tells of the hours and days that were over at an instant, before which everything is summed up: one event a period in
 * which there were readings.
 */
export function completePeriods(ctx: Ctx, at = ctx.now()): void {
  for (const { period, width } of periods) {
    const now = floorTo(at, width);
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
