import { asc, eq, sql } from "drizzle-orm";
import { actors, devices, purges, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import type { Patch } from "./schemas.ts";

export type Device = typeof devices.$inferSelect;

export const deviceStatus = { ok: 1, pending: 2, lost: 3, disabled: 4 } as const;

/** `lastSeenAt` is kept to a second: at a hundred readings a second one write tells as much as a hundred. */
const lastSeenResolutionMs = 1_000;

export interface DeviceInput {
  name: string;
  description: string;
  location: string;
  statusId: number;
}

/** All devices, oldest first. */
export const listDevices = (ctx: Ctx): Device[] =>
  ctx.db.select().from(devices).orderBy(asc(devices.createdAt), asc(devices.pk)).all();

export const findDevice = (ctx: Ctx, id: string): Device | undefined =>
  ctx.db.select().from(devices).where(eq(devices.id, id)).get();

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
    .returning()
    .get();
}

/** Changes what is given. What a user has set, the device's next announcement leaves alone. */
export function updateDevice(ctx: Ctx, id: string, input: Patch<DeviceInput>): Device {
  const device = getDevice(ctx, id);
  const { statusId, ...fields } = input;
  const updated = ctx.db
    .update(devices)
    .set({ ...input, editedFields: addEdited(device.editedFields, fields), updatedAt: ctx.now() })
    .where(eq(devices.pk, device.pk))
    .returning()
    .get();
  if (statusId !== undefined && statusId !== device.statusId)
    ctx.emit("device.status", { deviceId: device.id, statusId });
  return updated;
}

export const addEdited = (edited: string[], fields: object): string[] => [
  ...new Set([...edited, ...Object.keys(fields)]),
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
  if (gone.length > 0) ctx.emit("sensors.removed", { count: gone.length });
}

/** Sets a status that the gateway itself has observed, and says so where it is a change. */
export function setDeviceStatus(ctx: Ctx, device: Pick<Device, "pk" | "id" | "statusId">, statusId: number): void {
  if (device.statusId === statusId) return;
  ctx.db.update(devices).set({ statusId, updatedAt: ctx.now() }).where(eq(devices.pk, device.pk)).run();
  ctx.emit("device.status", { deviceId: device.id, statusId });
}

/** A message of the device's own has come: it is seen now, and back if it was lost. */
export function noteMessage(ctx: Ctx, device: Pick<Device, "pk" | "id" | "statusId" | "lastSeenAt">): void {
  noteSeen(ctx, device);
  if (device.statusId === deviceStatus.lost) setDeviceStatus(ctx, device, deviceStatus.ok);
}

function noteSeen(ctx: Ctx, { pk, lastSeenAt }: Pick<Device, "pk" | "lastSeenAt">): void {
  const now = ctx.now();
  // A clock that was set back must not freeze the time of the last sign of life in the future.
  if (lastSeenAt !== null && Math.abs(now - lastSeenAt) < lastSeenResolutionMs) return;
  ctx.db.update(devices).set({ lastSeenAt: now }).where(eq(devices.pk, pk)).run();
}

/**
 * A device's answer to a check: `lost` and `pending` are taken as said. A disabled device stays disabled.
 * @returns false where there is no such device.
 */
export function recordCheckResponse(ctx: Ctx, id: string, status: "ok" | "lost" | "pending"): boolean {
  const device = findDevice(ctx, id);
  if (device === undefined) return false;
  noteSeen(ctx, device);
  if (device.statusId !== deviceStatus.disabled) setDeviceStatus(ctx, device, deviceStatus[status]);
  return true;
}

export type CheckedDevice = Pick<Device, "pk" | "id" | "statusId" | "lastSeenAt">;

/** Every device that is to be asked whether it is there. */
export const listCheckedDevices = (ctx: Ctx): CheckedDevice[] =>
  ctx.db
    .select({ pk: devices.pk, id: devices.id, statusId: devices.statusId, lastSeenAt: devices.lastSeenAt })
    .from(devices)
    .where(sql`${devices.statusId} <> ${deviceStatus.disabled}`)
    .all();

/** Marks devices lost, those of them that have sent nothing since they were looked at. */
export function markLost(ctx: Ctx, silent: CheckedDevice[]): void {
  for (const { pk, lastSeenAt } of silent) {
    const device = ctx.db.select().from(devices).where(eq(devices.pk, pk)).get();
    if (device === undefined || device.statusId === deviceStatus.disabled || device.lastSeenAt !== lastSeenAt) continue;
    setDeviceStatus(ctx, device, deviceStatus.lost);
  }
}
