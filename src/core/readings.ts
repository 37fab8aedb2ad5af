import { eq } from "drizzle-orm";
import { sensors } from "../store/schema.ts";
import type { Steps } from "../steps.ts";
import type { PageQuery, Place, StoredReading } from "../store/readings.ts";
import type { Source } from "../store/sources.ts";
import type { Ctx } from "./ctx.ts";
import { noteMessage } from "./devices.ts";
import { DomainError, NoRoomError } from "./errors.ts";
import { maySpeakFor, type Identity } from "./identities.ts";
import { ofOneMoment } from "./moment.ts";
import { firstInstant, readDroppedBefore } from "./retention.ts";
import { addToRollups, correctRollups, readWatermark } from "./rollups.ts";
import { maxAheadMs } from "./time.ts";

export interface Reading {
  id: number;
  sensorId: string;
  value: number;
  valueAt: number;
}

export interface ReadingInput {
  sensorId: string;
  value: number;
  /** Absent: the time at which the reading is stored. */
  valueAt?: number | undefined;
}

/** Who says so, and how. */
export interface ReadingSource {
  /** Absent: the gateway itself takes it as said. */
  speaker?: Identity;
  /** A message of the device's own, which is thereby seen. */
  isOwn?: boolean;
  /** See core/intake. */
  fingerprint?: number;
}

/** What became of a reading: stored now, or known already because it was sent before. */
export interface Recorded {
  id: number;
  /** The UUID of the device whose sensor it is. */
  deviceId: string;
  isResend: boolean;
}

/**
 * Stores a reading. A resend, the same sensor, `valueAt` and value again, is one reading and gets the same id.
 * @throws {NoRoomError}
 * @returns "unknown" where no such sensor exists, "forbidden" where it is not the speaker's to speak for
 */
export function recordReading(
  ctx: Ctx,
  { sensorId, value, valueAt }: ReadingInput,
  { speaker, isOwn = true, fingerprint }: ReadingSource = {},
): Recorded | "unknown" | "forbidden" {
  const source = ctx.sources.find(sensorId);
  if (source === undefined) return "unknown";
  const { sensorPk, device } = source;
  if (speaker !== undefined && !maySpeakFor(speaker, device)) return "forbidden";
  const known = valueAt === undefined ? undefined : ctx.readings.findSame(sensorPk, valueAt, value);
  // Before anything is written: then nothing has to be undone. What is stored already may be acknowledged.
  if (known === undefined && !ctx.hasRoom()) throw new NoRoomError();
  if (isOwn) noteMessage(ctx, device);
  if (known !== undefined) return { id: known, deviceId: device.id, isResend: true };
  const at = valueAt ?? ctx.now();
  const id = ctx.readings.append(sensorPk, at, value, fingerprint);
  if (ctx.isHeard("reading.stored"))
    ctx.emit("reading.stored", { readingId: id, deviceId: device.displayId, sensorId, valueAt: at, value });
  return { id, deviceId: device.id, isResend: false };
}

/** A reading that a user sends. @throws {DomainError} `invalid`: unknown sensor, or a time too far ahead. */
export function createReading(ctx: Ctx, input: ReadingInput): Recorded {
  if (input.valueAt !== undefined) requireTime(ctx, input.valueAt);
  const recorded = recordReading(ctx, input, { isOwn: false });
  if (typeof recorded === "string") throw new DomainError("invalid", "sensor not found");
  return recorded;
}

/** @throws {DomainError} `invalid` for a time too far ahead */
export function requireTime(ctx: Ctx, valueAt: number): void {
  if (valueAt > ctx.now() + maxAheadMs) throw new DomainError("invalid", "value_at is more than 24 hours ahead");
}

export interface ReadingQuery {
  /** Absent: all sensors. An unknown one has no readings. */
  sensorId?: string | undefined;
  /** Inclusive. */
  from?: number | undefined;
  /** Exclusive. */
  to?: number | undefined;
  offset: number;
  limit: number;
}

/** Over all sensors, skipping is merging: so many take a tenth of a second. */
const maxMergedOffset = 100_000;

const lastInstant = Number.MAX_SAFE_INTEGER;

/**
 * Readings, newest first; those of one instant in reverse order of arrival.
 * @throws {DomainError} `invalid`: too far back over all sensors
 */
export function* listReadings(ctx: Ctx, query: ReadingQuery): Steps<Reading[]> {
  const { sensorId } = query;
  if (sensorId === undefined) return yield* ofOneMoment(ctx, undefined, () => mergeSensors(ctx, query));
  const source = ctx.sources.find(sensorId);
  if (source === undefined) return [];
  const { sensorPk } = source;
  const rows = yield* ofOneMoment(ctx, sensorPk, () => pageOf(ctx, ctx.sources.find(sensorId) ?? source, query));
  return rows.map((row) => toReading(row, sensorId));
}

/** To pass over so many takes about 0.1 ms. */
const skippedPerStep = 4_096;

function* pageOf(
  ctx: Ctx,
  { sensorPk, droppedBefore }: Source,
  { from = firstInstant, to = lastInstant, limit, offset }: ReadingQuery,
): Steps<StoredReading[]> {
  const part = { sensorPk, from: Math.max(from, droppedBefore), upToId: ctx.readings.lastId() };
  let before: Place = { at: to, id: 0 };
  let left = offset;
  for (; left > skippedPerStep; left -= skippedPerStep) {
    const [last] = ctx.readings.page({ ...part, before, skip: skippedPerStep - 1, limit: 1 });
    if (last === undefined) return [];
    before = { at: last.valueAt, id: last.id };
    yield;
  }
  return ctx.readings.page({ ...part, before, skip: left, limit });
}

const toReading = ({ id, value, valueAt }: StoredReading, sensorId: string): Reading => ({
  id,
  sensorId,
  value,
  valueAt,
});

/** One sensor's readings in order, fetched a few at a time. */
interface Run {
  sensorId: string;
  part: Pick<PageQuery, "sensorPk" | "from" | "upToId">;
  rows: StoredReading[];
  next: number;
}

/** To merge so many takes about 0.1 ms. */
const mergedPerStep = 128;

/**
 * The newest readings over all sensors: a merge of each sensor's own order. An index on time alone would answer this
 * without a merge, and would cost every reading another 15 bytes and another page to write.
 */
function* mergeSensors(
  ctx: Ctx,
  { from = firstInstant, to = lastInstant, offset, limit }: ReadingQuery,
): Steps<Reading[]> {
  if (offset > maxMergedOffset) {
    throw new DomainError(
      "invalid",
      `page is more than ${maxMergedOffset} readings back: give sensor_id, or a time with from and to`,
    );
  }
  const all = ctx.db
    .select({ sensorId: sensors.id, sensorPk: sensors.pk, droppedBefore: sensors.droppedBefore })
    .from(sensors)
    .all();
  const chunk = Math.max(8, Math.ceil((2 * (offset + limit)) / Math.max(1, all.length)));
  const fill = (run: Run): boolean => {
    const last = run.rows.at(-1);
    const before = last === undefined ? { at: to, id: 0 } : { at: last.valueAt, id: last.id };
    run.rows = ctx.readings.page({ ...run.part, before, limit: Math.min(chunk, 1_000) });
    run.next = 0;
    return run.rows.length > 0;
  };
  const upToId = ctx.readings.lastId();
  const heap: Run[] = [];
  for (const { sensorId, sensorPk, droppedBefore } of all) {
    const part = { sensorPk, from: Math.max(from, droppedBefore ?? firstInstant), upToId };
    const run: Run = { sensorId, part, rows: [], next: 0 };
    if (fill(run)) heap.push(run);
    yield;
  }
  for (let i = (heap.length >> 1) - 1; i >= 0; i--) siftDown(heap, i);

  const merged: Reading[] = [];
  let steps = 0;
  for (let skipped = 0; heap.length > 0 && merged.length < limit;) {
    const run = heap[0] as Run;
    if (skipped < offset) skipped += 1;
    else merged.push(toReading(run.rows[run.next] as StoredReading, run.sensorId));
    run.next += 1;
    if (run.next === run.rows.length && !fill(run)) {
      const last = heap.pop() as Run;
      if (heap.length === 0) break;
      if (last !== run) heap[0] = last;
    }
    siftDown(heap, 0);
    if (++steps % mergedPerStep === 0) yield;
  }
  return merged;
}

function isNewer(a: Run, b: Run): boolean {
  const first = a.rows[a.next] as StoredReading;
  const second = b.rows[b.next] as StoredReading;
  return first.valueAt > second.valueAt || (first.valueAt === second.valueAt && first.id > second.id);
}

/** Restores a binary heap, newest on top, whose entry at `i` has become older. */
function siftDown(heap: Run[], i: number): void {
  for (;;) {
    let newest = i;
    for (const child of [2 * i + 1, 2 * i + 2]) {
      if (child < heap.length && isNewer(heap[child] as Run, heap[newest] as Run)) newest = child;
    }
    if (newest === i) return;
    [heap[i], heap[newest]] = [heap[newest] as Run, heap[i] as Run];
    i = newest;
  }
}

function getStored(ctx: Ctx, id: number): Reading & { sensorPk: number } {
  const stored = ctx.readings.get(id);
  // Readings whose sensor is gone wait for their removal, as do those that are too old: nobody sees them any more.
  const sensor =
    stored &&
    ctx.db
      .select({ id: sensors.id, droppedBefore: sensors.droppedBefore })
      .from(sensors)
      .where(eq(sensors.pk, stored.sensorPk))
      .get();
  if (stored === undefined || sensor === undefined || stored.valueAt < (sensor.droppedBefore ?? firstInstant))
    throw new DomainError("not_found", "reading not found");
  return { ...toReading(stored, sensor.id), sensorPk: stored.sensorPk };
}

/** @throws {DomainError} `not_found` */
export function getReading(ctx: Ctx, id: number): Reading {
  const { sensorPk: _, ...reading } = getStored(ctx, id);
  return reading;
}

/** @throws {DomainError} `not_found`; `invalid` for a time too far ahead. */
export function updateReading(
  ctx: Ctx,
  id: number,
  { value, valueAt }: { value?: number | undefined; valueAt?: number | undefined },
): void {
  const reading = getStored(ctx, id);
  if (valueAt !== undefined) requireTime(ctx, valueAt);
  const changed = { value: value ?? reading.value, valueAt: valueAt ?? reading.valueAt };
  ctx.readings.replace(id, changed.valueAt, changed.value);
  const { sensorPk } = reading;
  correctRollups(ctx, sensorPk, reading.valueAt);
  if (changed.valueAt === reading.valueAt) return;
  if (changed.valueAt < readDroppedBefore(ctx, sensorPk)) addToRollups(ctx, { id, sensorPk, ...changed });
  else correctRollups(ctx, sensorPk, changed.valueAt);
}

/**
 * Moves readings into blocks, `limit` of them at a time: those that the rollups hold, which are not looked for in the
 * order of their arrival any more.
 * @returns true where there is more to do
 */
export const sealStep = (ctx: Ctx, limit: number): boolean => ctx.readings.seal(readWatermark(ctx), limit);

/** @throws {DomainError} `not_found` */
export function deleteReading(ctx: Ctx, id: number): void {
  const { sensorPk, valueAt } = getStored(ctx, id);
  ctx.readings.remove(id);
  correctRollups(ctx, sensorPk, valueAt);
}
