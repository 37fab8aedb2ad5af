import { and, asc, count, eq, exists, inArray, min, or, sql } from "drizzle-orm";
import { alias } from "drizzle-orm/sqlite-core";
import type { Db } from "../store/open.ts";
import { actors, devices, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { addEdited, changeStatus, findAnyDevice, getAnyDevice, type Device } from "./devices.ts";
import { DomainError } from "./errors.ts";
import { newUuid, parseUuid } from "./ids.ts";
import { prepareOnce, prepareQuery } from "./prepared.ts";
import type { Patch } from "./schemas.ts";
import { firstInstant } from "./retention.ts";
import { lastSeenAt } from "./sightings.ts";
import { deviceStatus, displayId, wordColumn, type StatusWord } from "./status.ts";

// Devices as /v1 sees them: under an id of their own, with a status in words, and with a primary sensor, their first.

export interface DeviceSummary {
  id: string;
  name: string;
  type: string;
  status: StatusWord;
  lastSeenAt: number | null;
}

export interface LastReading {
  at: number;
  value: number;
}

/** A device in a list. */
export interface ListedDevice extends DeviceSummary {
  /** That of its primary sensor, null where there is none; absent where it was not asked for. */
  lastReading?: LastReading | null;
}

export interface SensorSummary {
  id: string;
  name: string;
  type: string;
  unit: string | null;
  isActive: boolean;
  lastReading: LastReading | undefined;
}

export interface DeviceDetail extends DeviceSummary {
  device: Device;
  sensors: SensorSummary[];
  actors: { id: string; name: string; type: string; isActive: boolean }[];
}

/** For a query over devices that joins each with its primary sensor. */
function isPrimary(db: Db) {
  const own = alias(sensors, "own");
  return eq(
    sensors.pk,
    db
      .select({ pk: min(own.pk) })
      .from(own)
      .where(eq(own.devicePk, devices.pk)),
  );
}

/** Of such a query. */
const summaryColumns = (db: Db) => ({
  id: displayId,
  name: devices.name,
  type: sql<string>`coalesce(${devices.type}, ${sensors.type}, 'unknown')`,
  status: wordColumn(db),
  lastSeenAt,
});

export interface DeviceFilter {
  status?: StatusWord | undefined;
  /** The device's type, or that of any of its sensors. */
  type?: string | undefined;
}

export interface DeviceQuery extends DeviceFilter {
  limit: number;
  offset: number;
  /** Whether the last readings are asked for. */
  hasLastReading?: boolean;
}

type ListRow = [
  ...summary: [id: string, name: string, type: string, status: StatusWord, lastSeenAt: number | null],
  sensorPk: number | null,
  droppedBefore: number | null,
];

/** The statements of a list, for each of the filters given or not. */
function prepareList(db: Db, given: Record<keyof DeviceFilter, boolean>) {
  const ofSensor = db
    .select({ one: sql`1` })
    .from(sensors)
    .where(and(eq(sensors.devicePk, devices.pk), eq(sensors.type, sql.placeholder("type"))));
  const where = and(
    given.status ? sql`${wordColumn(db)} = ${sql.placeholder("status")}` : undefined,
    given.type ? or(eq(devices.type, sql.placeholder("type")), exists(ofSensor)) : undefined,
  );
  const order = [asc(devices.createdAt), asc(devices.pk)] as const;
  // What a page shows is looked up for the devices on it alone, and not for all that are sorted to find them.
  const page = db
    .select({ pk: devices.pk })
    .from(devices)
    .where(where)
    .orderBy(...order)
    .limit(sql.placeholder("limit"))
    .offset(sql.placeholder("offset"));
  return {
    rows: prepareQuery<ListRow>(
      db,
      db
        .select({ ...summaryColumns(db), sensorPk: sensors.pk, droppedBefore: sensors.droppedBefore })
        .from(devices)
        .leftJoin(sensors, isPrimary(db))
        .where(inArray(devices.pk, page))
        .orderBy(...order),
    ),
    total: prepareQuery<[number]>(db, db.select({ n: count() }).from(devices).where(where)),
  };
}

const lists = prepareOnce((db) => ({
  all: prepareList(db, { status: false, type: false }),
  ofStatus: prepareList(db, { status: true, type: false }),
  ofType: prepareList(db, { status: false, type: true }),
  ofBoth: prepareList(db, { status: true, type: true }),
}));

/** Devices, oldest first. */
export function listSummaries(
  ctx: Ctx,
  { hasLastReading = false, ...query }: DeviceQuery,
): { devices: ListedDevice[]; total: number } {
  const { all, ofStatus, ofType, ofBoth } = lists(ctx.db);
  const [without, withType] = query.status === undefined ? [all, ofType] : [ofStatus, ofBoth];
  const { rows, total } = query.type === undefined ? without : withType;
  return {
    devices: rows({ ...query }).map(([id, name, type, status, lastSeenAt, sensorPk, droppedBefore]) => {
      const device: ListedDevice = { id, name, type, status, lastSeenAt };
      if (hasLastReading)
        device.lastReading = sensorPk === null ? null : (findLastReading(ctx, { pk: sensorPk, droppedBefore }) ?? null);
      return device;
    }),
    total: total({ ...query })[0]?.[0] ?? 0,
  };
}

/** @throws {DomainError} `not_found` */
export function getDetail(ctx: Ctx, id: string): DeviceDetail {
  const device = getAnyDevice(ctx, id);
  const summary = ctx.db
    .select(summaryColumns(ctx.db))
    .from(devices)
    .leftJoin(sensors, isPrimary(ctx.db))
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
function findLastReading(
  ctx: Ctx,
  { pk, droppedBefore }: Pick<Sensor, "pk" | "droppedBefore">,
): LastReading | undefined {
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
