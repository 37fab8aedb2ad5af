import { asc, eq, or, sql } from "drizzle-orm";
import { actors, devices, purges, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import type { Patch } from "./schemas.ts";
import { endDeviceIdentity } from "./sessions.ts";
import { deviceColumns, lastSeenAt, noteSeen } from "./sightings.ts";
import { deviceStatus, displayId, wordColumn } from "./status.ts";
import { formatInstant } from "./time.ts";
import { enqueueEvent } from "./webhooks.ts";

/** `lastSeenAt`: see core/sightings. */
export type Device = Omit<typeof devices.$inferSelect, "savedSeenAt"> & { lastSeenAt: number | null };

export interface DeviceInput {
  name: string;
  description: string;
  location: string;
  statusId: number;
}

/** All devices, oldest first. */
export const listDevices = (ctx: Ctx): Device[] =>
  ctx.db.select(deviceColumns).from(devices).orderBy(asc(devices.createdAt), asc(devices.pk)).all();

export const findDevice = (ctx: Ctx, id: string): Device | undefined =>
  ctx.db.select(deviceColumns).from(devices).where(eq(devices.id, id)).get();

/** {@link displayId} of a device at hand. */
export const displayIdOf = ({ externalId, id }: Pick<Device, "externalId" | "id">): string => externalId ?? id;

/** Finds a device by either id. */
export const findAnyDevice = (ctx: Ctx, id: string): Device | undefined =>
  ctx.db
    .select(deviceColumns)
    .from(devices)
    .where(or(eq(devices.externalId, id), eq(devices.id, id.toLowerCase())))
    .get();

/** @throws {DomainError} `not_found` */
export function getAnyDevice(ctx: Ctx, id: string): Device {
  const device = findAnyDevice(ctx, id);
  if (device === undefined) throw new DomainError("not_found", "device not found");
  return device;
}

/**
 * Makes a change that may change what a device's status is called, and tells of it where it does: to who watches, and,
 * in the same transaction, to the outbox of who listens for `device.online` or `device.offline`.
 */
export function changeStatus(ctx: Ctx, devicePk: number, change: () => void): void {
  const before = readStatus(ctx, devicePk);
  change();
  const after = readStatus(ctx, devicePk);
  if (before === undefined || after === undefined || before.word === after.word) return;
  const data = {
    deviceId: after.deviceId,
    status: after.word,
    lastSeen: after.lastSeenAt === null ? null : formatInstant(after.lastSeenAt),
  };
  if (after.word !== "error") enqueueEvent(ctx, `device.${after.word}`, data);
  ctx.emit("device.status", data);
}

const readStatus = (ctx: Ctx, devicePk: number) =>
  ctx.db
    .select({ deviceId: displayId, word: wordColumn(ctx.db), lastSeenAt })
    .from(devices)
    .where(eq(devices.pk, devicePk))
    .get();

/** @throws {DomainError} `not_found` */
export function getDevice(ctx: Ctx, id: string): Device {
  const device = findDevice(ctx, id);
  if (device === undefined) throw new DomainError("not_found", "device not found");
  return device;
}

/** The device that a body names. @throws {DomainError} `invalid`: the body is at fault, not the path. */
export function requireDevice(ctx: Ctx, id: string): Device {
  const device = findDevice(ctx, id);
  if (device === undefined) throw new DomainError("invalid", "device not found");
  return device;
}

export function createDevice(ctx: Ctx, input: DeviceInput): Device {
  const now = ctx.now();
  return ctx.db
    .insert(devices)
    .values({ id: newUuid(), ...input, createdAt: now, updatedAt: now })
    .returning(deviceColumns)
    .get();
}

/** Changes what is given. What a user has set, the device's next announcement leaves alone. */
export function updateDevice(ctx: Ctx, id: string, input: Patch<DeviceInput>): Device {
  const device = getDevice(ctx, id);
  const { statusId: _, ...fields } = input;
  changeStatus(ctx, device.pk, () => {
    ctx.db
      .update(devices)
      .set({ ...input, editedFields: addEdited(device.editedFields, fields), updatedAt: ctx.now() })
      .where(eq(devices.pk, device.pk))
      .run();
  });
  return getDevice(ctx, id);
}

/** A field that is given as `undefined` is not set. */
export const addEdited = (edited: string[], fields: object): string[] => [
  ...new Set([...edited, ...Object.keys(fields).filter((name) => fields[name as keyof typeof fields] !== undefined)]),
];

/**
 * Removes a device with its sensors and actors. Its readings are out of reach at once; their rows go in the background
 * (jobs/purge), since there may be millions.
 */
export function deleteDevice(ctx: Ctx, id: string): void {
  const device = getDevice(ctx, id);
  const gone = ctx.db.select({ sensorPk: sensors.pk }).from(sensors).where(eq(sensors.devicePk, device.pk)).all();
  if (gone.length > 0) ctx.db.insert(purges).values(gone).run();
  ctx.db.delete(sensors).where(eq(sensors.devicePk, device.pk)).run();
  ctx.db.delete(actors).where(eq(actors.devicePk, device.pk)).run();
  ctx.db.delete(devices).where(eq(devices.pk, device.pk)).run();
  if (device.tokenHash !== null) endDeviceIdentity(ctx, device.id);
  if (gone.length > 0) ctx.emit("sensors.removed", { count: gone.length });
}

/** Sets a status that the gateway itself has observed, and says so where it is a change. */
export function setDeviceStatus(ctx: Ctx, device: Pick<Device, "pk" | "id" | "statusId">, statusId: number): void {
  if (device.statusId === statusId) return;
  changeStatus(ctx, device.pk, () => {
    ctx.db.update(devices).set({ statusId, updatedAt: ctx.now() }).where(eq(devices.pk, device.pk)).run();
  });
}

/** A message of the device's own has come: it is seen now, back if it was lost, and no longer awaited. */
export function noteMessage(ctx: Ctx, device: Pick<Device, "pk" | "id" | "statusId" | "lastSeenAt">): void {
  noteSeen(ctx, device);
  if (device.statusId === deviceStatus.lost || device.statusId === deviceStatus.pending)
    setDeviceStatus(ctx, device, deviceStatus.ok);
}

/**
 * A device's answer to a check: `lost` and `pending` are taken as said. `error` reports a fault, which any other answer
 * ends. A disabled device stays disabled.
 * `mayAnswer`: whether whoever answers may speak for the device.
 */
export function recordCheckResponse(
  ctx: Ctx,
  id: string,
  status: "ok" | "lost" | "pending" | "error",
  mayAnswer: (device: Device) => boolean = () => true,
): "recorded" | "unknown" | "forbidden" {
  const device = findDevice(ctx, id);
  if (device === undefined) return "unknown";
  if (!mayAnswer(device)) return "forbidden";
  noteSeen(ctx, device);
  const isFaulty = status === "error";
  const statusId =
    device.statusId === deviceStatus.disabled ? deviceStatus.disabled : deviceStatus[isFaulty ? "ok" : status];
  if (isFaulty === device.isFaulty && statusId === device.statusId) return "recorded";
  changeStatus(ctx, device.pk, () => {
    ctx.db.update(devices).set({ isFaulty, statusId, updatedAt: ctx.now() }).where(eq(devices.pk, device.pk)).run();
  });
  return "recorded";
}

export type CheckedDevice = Pick<Device, "pk" | "id" | "statusId" | "lastSeenAt">;

/** Every device that is to be asked whether it is there. */
export const listCheckedDevices = (ctx: Ctx): CheckedDevice[] =>
  ctx.db
    .select({ pk: devices.pk, id: devices.id, statusId: devices.statusId, lastSeenAt })
    .from(devices)
    .where(sql`${devices.statusId} <> ${deviceStatus.disabled}`)
    .all();

/** Marks devices lost, those of them that have sent nothing since they were looked at. */
export function markLost(ctx: Ctx, silent: CheckedDevice[]): void {
  for (const { pk, lastSeenAt } of silent) {
    const device = ctx.db.select(deviceColumns).from(devices).where(eq(devices.pk, pk)).get();
    if (device === undefined || device.statusId === deviceStatus.disabled || device.lastSeenAt !== lastSeenAt) continue;
    setDeviceStatus(ctx, device, deviceStatus.lost);
  }
}
