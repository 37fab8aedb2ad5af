import { and, asc, count, eq, exists, or, sql, type SQL } from "drizzle-orm";
import { actors, devices, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { addEdited, changeStatus, findAnyDevice, getAnyDevice, type Device } from "./devices.ts";
import { DomainError } from "./errors.ts";
import { newUuid, parseUuid } from "./ids.ts";
import type { Patch } from "./schemas.ts";
import { firstInstant } from "./retention.ts";
import { deviceStatus, displayId, wordColumn, type StatusWord } from "./status.ts";

// Devices as /v1 sees them: under an id of their own, with a status in words, and with a primary sensor, their first.

export interface DeviceSummary {
  id: string;
  name: string;
  type: string;
  status: StatusWord;
  lastSeenAt: number | null;
}

export interface SensorSummary {
  id: string;
  name: string;
  type: string;
  unit: string | null;
  isActive: boolean;
  lastReading: { at: number; value: number } | undefined;
}

export interface DeviceDetail extends DeviceSummary {
  device: Device;
  sensors: SensorSummary[];
  actors: { id: string; name: string; type: string; isActive: boolean }[];
}

/** Its own type, else that of its first sensor. */
const typeColumn = (ctx: Ctx): SQL<string> =>
  sql<string>`coalesce(${devices.type}, ${ctx.db.select({ type: sensors.type }).from(sensors).where(eq(sensors.devicePk, devices.pk)).orderBy(asc(sensors.pk)).limit(1)}, 'unknown')`;

const summaryColumns = (ctx: Ctx) => ({
  id: displayId,
  name: devices.name,
  type: typeColumn(ctx),
  status: wordColumn(ctx.db),
  lastSeenAt: devices.lastSeenAt,
});

export interface DeviceQuery {
  status?: StatusWord | undefined;
  /** The device's type, or that of any of its sensors. */
  type?: string | undefined;
  limit: number;
  offset: number;
}

/** Devices, oldest first. */
export function listSummaries(
  ctx: Ctx,
  { status, type, limit, offset }: DeviceQuery,
): { devices: DeviceSummary[]; total: number } {
  const where = and(
    status === undefined ? undefined : sql`${wordColumn(ctx.db)} = ${status}`,
    type === undefined
      ? undefined
      : or(
          eq(devices.type, type),
          exists(
            ctx.db
              .select({ one: sql`1` })
              .from(sensors)
              .where(and(eq(sensors.devicePk, devices.pk), eq(sensors.type, type))),
          ),
        ),
  );
  return {
    devices: ctx.db
      .select(summaryColumns(ctx))
      .from(devices)
      .where(where)
      .orderBy(asc(devices.createdAt), asc(devices.pk))
      .limit(limit)
      .offset(offset)
      .all(),
    total: ctx.db.select({ n: count() }).from(devices).where(where).get()?.n ?? 0,
  };
}

/** @throws {DomainError} `not_found` */
export function getDetail(ctx: Ctx, id: string): DeviceDetail {
  const device = getAnyDevice(ctx, id);
  const summary = ctx.db
    .select(summaryColumns(ctx))
    .from(devices)
    .where(eq(devices.pk, device.pk))
    .get() as DeviceSummary;
  const ofDevice = ctx.db.select().from(sensors).where(eq(sensors.devicePk, device.pk)).orderBy(asc(sensors.pk)).all();
  return {
    ...summary,
    device,
    sensors: ofDevice.map((sensor) => ({
      id: sensor.id,
      name: sensor.name,
      type: sensor.type,
      unit: sensor.unit,
      isActive: sensor.active,
      lastReading: findLastReading(ctx, sensor),
    })),
    actors: ctx.db
      .select({ id: actors.id, name: actors.name, type: actors.type, isActive: actors.active })
      .from(actors)
      .where(eq(actors.devicePk, device.pk))
      .orderBy(asc(actors.pk))
      .all(),
  };
}

/** The newest by its own time: back-fill never becomes the latest. */
function findLastReading(ctx: Ctx, { pk, droppedBefore }: Sensor): { at: number; value: number } | undefined {
  const newest = ctx.readings.newest(pk);
  if (newest === undefined || newest.valueAt < (droppedBefore ?? firstInstant)) return undefined;
  return { at: newest.valueAt, value: newest.value };
}

export interface Registration {
  /** A name of its own; a UUID becomes the device's UUID. */
  id?: string | undefined;
  name: string;
  type: string;
  manufacturer?: string | undefined;
  model?: string | undefined;
  location?: string | undefined;
}

/** Makes a device with its primary sensor; it is offline until it is heard. @throws {DomainError} `conflict` */
export function registerDevice(
  ctx: Ctx,
  { id, name, type, manufacturer, model, location }: Registration,
): DeviceDetail {
  if (id !== undefined && findAnyDevice(ctx, id) !== undefined)
    throw new DomainError("conflict", "a device with this id already exists");
  const uuid = id === undefined ? newUuid() : parseUuid(id);
  const now = ctx.now();
  const device = ctx.db
    .insert(devices)
    .values({
      id: uuid ?? newUuid(),
      externalId: uuid === undefined ? (id ?? null) : null,
      name,
      description: "",
      location: location ?? "",
      type,
      manufacturer: manufacturer ?? null,
      model: model ?? null,
      statusId: deviceStatus.pending,
      editedFields: ["name", ...(location === undefined ? [] : ["location"])],
      createdAt: now,
      updatedAt: now,
    })
    .returning()
    .get();
  ctx.db
    .insert(sensors)
    .values({ id: newUuid(), devicePk: device.pk, name, type, dataTypeId: 2, createdAt: now, updatedAt: now })
    .run();
  return getDetail(ctx, device.id);
}

export type DeviceChange = Patch<Omit<Registration, "id"> & { statusId: number }>;

/** Changes what is given; a new type is the primary sensor's too. @throws {DomainError} `not_found` */
export function changeDevice(ctx: Ctx, id: string, { statusId, ...fields }: DeviceChange): DeviceDetail {
  const device = getAnyDevice(ctx, id);
  const now = ctx.now();
  changeStatus(ctx, device.pk, () => {
    ctx.db
      .update(devices)
      .set({
        ...fields,
        ...(statusId !== undefined && { statusId: enabledStatus(device, statusId) }),
        editedFields: addEdited(device.editedFields, fields),
        updatedAt: now,
      })
      .where(eq(devices.pk, device.pk))
      .run();
  });
  if (fields.type !== undefined) retypePrimary(ctx, device.pk, fields.type, now);
  return getDetail(ctx, device.id);
}

/** To enable what is not disabled changes nothing: a device that is lost is not found by saying so. */
const enabledStatus = (device: Device, statusId: number): number =>
  statusId === deviceStatus.ok && device.statusId !== deviceStatus.disabled ? device.statusId : statusId;

function retypePrimary(ctx: Ctx, devicePk: number, type: string, now: number): void {
  const primary = findPrimarySensor(ctx, devicePk);
  if (primary === undefined) return;
  ctx.db
    .update(sensors)
    .set({ type, editedFields: addEdited(primary.editedFields, { type }), updatedAt: now })
    .where(eq(sensors.pk, primary.pk))
    .run();
}

export type Sensor = typeof sensors.$inferSelect;

export const findPrimarySensor = (ctx: Ctx, devicePk: number): Sensor | undefined =>
  ctx.db.select().from(sensors).where(eq(sensors.devicePk, devicePk)).orderBy(asc(sensors.pk)).limit(1).get();
