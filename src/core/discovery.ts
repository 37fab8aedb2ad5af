import { and, count, eq } from "drizzle-orm";
import { actors, devices, sensors } from "../store/schema.ts";
import type { ComponentKind } from "./components.ts";
import type { Ctx } from "./ctx.ts";
import { findDevice, noteMessage, type Device } from "./devices.ts";
import { anyone, maySpeakFor, type Identity } from "./identities.ts";
import { deriveComponentId } from "./ids.ts";
import type { Patch } from "./schemas.ts";
import { deviceColumns } from "./sightings.ts";
import { deviceStatus } from "./status.ts";

// A device announces itself, with its sensors and actors: what is new is made, what has changed is changed, what is no
// longer there becomes inactive. An equal announcement changes nothing.

export interface AnnouncedComponent {
  /** Absent: derived from the device's id and the place in the list. */
  id?: string | undefined;
  name?: string | undefined;
  type?: string | undefined;
  dataTypeId?: number | undefined;
}

export interface Announcement {
  id: string;
  mac?: string | undefined;
  name?: string | undefined;
  description?: string | undefined;
  location?: string | undefined;
  sensors: AnnouncedComponent[];
  actors: AnnouncedComponent[];
}

export interface AnnounceResult {
  /** Sensors and actors that were left out because they belong to another device. */
  foreign: string[];
  /** Why nothing was done: whoever speaks is not this device, or it is new and there is no room for another one. */
  refusal?: "forbidden" | "too_many_devices";
}

/** What a component is until its device says otherwise: 2 is a number, which takes booleans as 0 and 1 too. */
const defaultType = "unknown";
const defaultDataTypeId = 2;

const tables = { sensor: sensors, actor: actors } as const;

export function announceDevice(
  ctx: Ctx,
  announcement: Announcement,
  { maxDevices, speaker = anyone }: { maxDevices: number; speaker?: Identity },
): AnnounceResult {
  const known = findDevice(ctx, announcement.id);
  // A device that has an identity is known, and announces itself alone.
  const mayAnnounce = known === undefined ? speaker.kind !== "device" : maySpeakFor(speaker, known);
  if (!mayAnnounce) return { foreign: [], refusal: "forbidden" };
  if (known === undefined && countDevices(ctx) >= maxDevices) return { foreign: [], refusal: "too_many_devices" };
  const device = known === undefined ? insertDevice(ctx, announcement) : syncDevice(ctx, known, announcement);
  noteMessage(ctx, device);
  const foreign = [
    ...syncComponents(ctx, "sensor", device, announcement.sensors),
    ...syncComponents(ctx, "actor", device, announcement.actors),
  ];
  return { foreign };
}

const countDevices = (ctx: Ctx): number => ctx.db.select({ n: count() }).from(devices).get()?.n ?? 0;

function insertDevice(ctx: Ctx, { id, mac, name, description = "", location = "" }: Announcement): Device {
  const now = ctx.now();
  return ctx.db
    .insert(devices)
    .values({
      id,
      name: name ?? mac ?? id,
      description,
      location,
      statusId: deviceStatus.pending, // until the announcement itself counts as its first sign of life
      mac: mac ?? null,
      createdAt: now,
      updatedAt: now,
    })
    .returning(deviceColumns)
    .get();
}

function syncDevice(ctx: Ctx, device: Device, { mac, name, description, location }: Announcement): Device {
  const changes = differing(device, { mac, name, description, location });
  if (changes !== undefined) {
    ctx.db
      .update(devices)
      .set({ ...changes, updatedAt: ctx.now() })
      .where(eq(devices.pk, device.pk))
      .run();
  }
  return device;
}

/** Those announced fields that are not as stored and that no user has set; `undefined` where there are none. */
function differing<T extends { editedFields: string[] }>(
  stored: T,
  announced: Patch<Omit<T, "editedFields">>,
): Partial<T> | undefined {
  const changes = Object.entries(announced).filter(
    ([field, value]) =>
      value !== undefined && stored[field as keyof T] !== value && !stored.editedFields.includes(field),
  );
  return changes.length === 0 ? undefined : (Object.fromEntries(changes) as Partial<T>);
}

/** @returns the ids that were left out */
function syncComponents(ctx: Ctx, kind: ComponentKind, device: Device, announced: AnnouncedComponent[]): string[] {
  const table = tables[kind];
  const foreign: string[] = [];
  const present = new Set<number>();
  for (const [position, { id: ownId, ...fields }] of announced.entries()) {
    const id = ownId ?? deriveComponentId(device.id, kind, position);
    const known = ctx.db.select().from(table).where(eq(table.id, id)).get();
    if (known === undefined)
      present.add(insertComponent(ctx, kind, device, { id, fallbackName: `${kind}-${position}`, ...fields }));
    else if (known.devicePk !== device.pk) foreign.push(id);
    else if (!present.has(known.pk)) {
      // Named twice in one announcement, it is what was said first: it would change back and forth with each boot.
      present.add(known.pk);
      const changes = differing(known, { ...fields, announced: true, active: true });
      if (changes !== undefined)
        ctx.db
          .update(table)
          .set({ ...changes, updatedAt: ctx.now() })
          .where(eq(table.pk, known.pk))
          .run();
    }
  }
  for (const { pk } of ctx.db
    .select({ pk: table.pk })
    .from(table)
    .where(and(eq(table.devicePk, device.pk), eq(table.announced, true), eq(table.active, true)))
    .all()) {
    if (!present.has(pk))
      ctx.db.update(table).set({ active: false, updatedAt: ctx.now() }).where(eq(table.pk, pk)).run();
  }
  return foreign;
}

function insertComponent(
  ctx: Ctx,
  kind: ComponentKind,
  device: Device,
  { id, name, type, dataTypeId, fallbackName }: AnnouncedComponent & { id: string; fallbackName: string },
): number {
  const now = ctx.now();
  return ctx.db
    .insert(tables[kind])
    .values({
      id,
      devicePk: device.pk,
      name: name ?? fallbackName,
      type: type ?? defaultType,
      dataTypeId: dataTypeId ?? defaultDataTypeId,
      announced: true,
      createdAt: now,
      updatedAt: now,
    })
    .returning({ pk: tables[kind].pk })
    .get().pk;
}
