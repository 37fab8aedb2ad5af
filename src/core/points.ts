import { and, eq } from "drizzle-orm";
import type { Steps } from "../steps.ts";
import { sensors } from "../store/schema.ts";
import type { Aggregation } from "./collected.ts";
import type { Ctx } from "./ctx.ts";
import { findPrimarySensor, type Sensor } from "./device-list.ts";
import { getAnyDevice, type Device } from "./devices.ts";
import { DomainError } from "./errors.ts";
import type { Interval, Zone } from "./intervals.ts";
import { requireAccess, spendRecords } from "./products.ts";
import { recordReading } from "./readings.ts";
import { firstInstant, readDroppedBefore } from "./retention.ts";
import { ofOneMoment } from "./moment.ts";
import { aggregateRange, aggregateSeries } from "./series.ts";
import { maxAheadMs } from "./time.ts";

// A device's data as /v1 sees it: points of its primary sensor, or of another one that is named.

export interface PointInput {
  at: number;
  value: number;
  unit?: string | undefined;
}

export interface DataPoint {
  at: number;
  value: number;
  /** How many readings went into an aggregate. */
  count?: number;
}

export interface Data {
  device: Device;
  unit: string | null;
  points: DataPoint[];
  /** All that match, not only this page. */
  total: number;
}

/** The sensor that is meant: the one that is named, else the primary one; `undefined` where the device has none. */
function chooseSensor(ctx: Ctx, device: Device, sensorId: string | undefined): Sensor | undefined {
  if (sensorId === undefined) return findPrimarySensor(ctx, device.pk);
  const sensor = ctx.db
    .select()
    .from(sensors)
    .where(and(eq(sensors.id, sensorId), eq(sensors.devicePk, device.pk)))
    .get();
  if (sensor === undefined) throw new DomainError("not_found", "sensor not found");
  return sensor;
}

/** {@link chooseSensor}, where there must be one. @throws {DomainError} `not_found`, `invalid` */
export function requireSensor(ctx: Ctx, device: Device, sensorId: string | undefined): Sensor {
  const sensor = chooseSensor(ctx, device, sensorId);
  if (sensor === undefined) throw new DomainError("invalid", "this device has no sensor");
  return sensor;
}

/**
 * Stores points that a device sends over HTTP, all or none.
 * @throws {DomainError} `not_found`; `invalid`: a unit that is not the sensor's, a time too far ahead, no sensor
 */
export function submitPoints(
  ctx: Ctx,
  deviceId: string,
  sensorId: string | undefined,
  points: readonly PointInput[],
): Data {
  const device = getAnyDevice(ctx, deviceId);
  const sensor = requireSensor(ctx, device, sensorId);
  let { unit } = sensor;
  for (const point of points) {
    if (point.at > ctx.now() + maxAheadMs)
      throw new DomainError("invalid", "timestamp is more than 24 hours ahead", { details: { field: "timestamp" } });
    if (point.unit !== undefined && unit !== null && point.unit !== unit) {
      throw new DomainError("invalid", `unit differs from the sensor's, which is ${unit}`, {
        details: { field: "unit" },
      });
    }
    unit ??= point.unit ?? null;
  }
  if (unit !== sensor.unit)
    ctx.db.update(sensors).set({ unit, updatedAt: ctx.now() }).where(eq(sensors.pk, sensor.pk)).run();
  for (const { at, value } of points) recordReading(ctx, { sensorId: sensor.id, value, valueAt: at });
  return { device, unit, points: points.map(({ at, value }) => ({ at, value })), total: points.length };
}

export interface DataQuery {
  sensorId?: string | undefined;
  from?: number | undefined;
  to?: number | undefined;
  limit?: number | undefined;
  aggregation?: Aggregation | undefined;
  interval?: Interval | undefined;
  zone: Zone;
}

const defaultLimit = 100;

/** Raw points newest first; with `aggregation` one point, or with `interval` a series, oldest first. @throws {DomainError} */
export function* readData(ctx: Ctx, deviceId: string, query: DataQuery, atMost = Number.MAX_SAFE_INTEGER): Steps<Data> {
  const device = getAnyDevice(ctx, deviceId);
  const sensor = chooseSensor(ctx, device, query.sensorId);
  if (sensor === undefined) return { device, unit: null, points: [], total: 0 };
  const { aggregation, interval, zone, limit, from, to } = query;
  const range = { sensorPk: sensor.pk, from, to };
  if (aggregation === undefined) {
    return yield* ofOneMoment(ctx, sensor.pk, function* () {
      const kept = { ...range, from: Math.max(from ?? firstInstant, readDroppedBefore(ctx, sensor.pk)) };
      const points = listNewest(ctx, kept, Math.min(limit ?? defaultLimit, atMost));
      const [all] = yield* aggregateRange(ctx, kept, "count");
      return { device, unit: sensor.unit, points, total: all?.value ?? 0 };
    });
  }
  const points = yield* interval === undefined
    ? aggregateRange(ctx, range, aggregation)
    : aggregateSeries(ctx, range, aggregation, interval, zone);
  // A count of degrees is no degrees.
  const unit = aggregation === "count" ? null : sensor.unit;
  return { device, unit, points: points.slice(0, Math.min(limit ?? points.length, atMost)), total: points.length };
}

const listNewest = (
  ctx: Ctx,
  {
    sensorPk,
    from = firstInstant,
    to = Number.MAX_SAFE_INTEGER,
  }: { sensorPk: number; from?: number | undefined; to?: number | undefined },
  limit: number,
): DataPoint[] =>
  ctx.readings
    .page({ sensorPk, from, before: { at: to, id: 0 }, limit })
    .map(({ valueAt, value }) => ({ at: valueAt, value }));

/**
 * Whether what was bought allows to read this, and how much of it.
 * @throws {DomainError} see {@link requireAccess}
 */
export const openBoughtData = (ctx: Ctx, purchaseId: string, deviceId: string, query: DataQuery): number =>
  requireAccess(ctx, purchaseId, getAnyDevice(ctx, deviceId).pk, { isAggregate: query.aggregation !== undefined });

/**
 * Counts off what was read for whoever bought it, before they get to see it: what two readers at once have read is cut to
 * what was bought, since somebody else may have come between.
 */
export function spendOnData(ctx: Ctx, purchaseId: string, data: Data, query: DataQuery): Data {
  const left = openBoughtData(ctx, purchaseId, data.device.id, query);
  const points = data.points.slice(0, left);
  spendRecords(ctx, purchaseId, points.length);
  return { ...data, points };
}
