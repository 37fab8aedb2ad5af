import { asc, eq, inArray, sql } from "drizzle-orm";
import { actors, alertRules, alerts, devices, purges, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { addEdited, changeStatus, requireDevice } from "./devices.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import type { Patch } from "./schemas.ts";

// Sensors and actors: one shape, one set of verbs.

export type ComponentKind = "sensor" | "actor";

const tables = { sensor: sensors, actor: actors } as const;

/** A sensor or an actor with the id of its device. */
export interface Component {
  pk: number;
  id: string;
  deviceId: string;
  name: string;
  type: string;
  dataTypeId: number;
  isActive: boolean;
  /** Of sensors: how many days readings are kept; 0: for ever; null: as long as all others'. */
  retentionDays: number | null;
  editedFields: string[];
  createdAt: number;
  updatedAt: number;
}

export interface ComponentInput {
  deviceId: string;
  name: string;
  type: string;
  dataTypeId: number;
  /** Of sensors alone, see {@link Component}. */
  retentionDays?: number | null;
}

const select = (ctx: Ctx, kind: ComponentKind) => {
  const table = tables[kind];
  return ctx.db
    .select({
      pk: table.pk,
      id: table.id,
      deviceId: devices.id,
      name: table.name,
      type: table.type,
      dataTypeId: table.dataTypeId,
      isActive: table.active,
      retentionDays: kind === "sensor" ? sensors.retentionDays : sql<number | null>`NULL`,
      editedFields: table.editedFields,
      createdAt: table.createdAt,
      updatedAt: table.updatedAt,
    })
    .from(table)
    .innerJoin(devices, eq(devices.pk, table.devicePk));
};

/** All of a kind, oldest first. */
export function listComponents(ctx: Ctx, kind: ComponentKind): Component[] {
  const table = tables[kind];
  return select(ctx, kind).orderBy(asc(table.createdAt), asc(table.pk)).all();
}

export const findComponent = (ctx: Ctx, kind: ComponentKind, id: string): Component | undefined =>
  select(ctx, kind).where(eq(tables[kind].id, id)).get();

/** @throws {DomainError} `not_found` */
export function getComponent(ctx: Ctx, kind: ComponentKind, id: string): Component {
  const component = findComponent(ctx, kind, id);
  if (component === undefined) throw new DomainError("not_found", `${kind} not found`);
  return component;
}

/** @throws {DomainError} `invalid` where the device does not exist. */
export function createComponent(
  ctx: Ctx,
  kind: ComponentKind,
  { deviceId, retentionDays = null, ...fields }: ComponentInput,
): Component {
  const device = requireDevice(ctx, deviceId);
  const id = newUuid();
  const now = ctx.now();
  ctx.db
    .insert(tables[kind])
    .values({ id, devicePk: device.pk, ...fields, createdAt: now, updatedAt: now })
    .run();
  if (kind === "sensor" && retentionDays !== null)
    ctx.db.update(sensors).set({ retentionDays }).where(eq(sensors.id, id)).run();
  return getComponent(ctx, kind, id);
}

/** Changes what is given. What a user has set, the device's next announcement leaves alone. */
export function updateComponent(
  ctx: Ctx,
  kind: ComponentKind,
  id: string,
  { deviceId, retentionDays, ...fields }: Patch<ComponentInput>,
): void {
  const component = getComponent(ctx, kind, id);
  const devicePk = deviceId === undefined ? undefined : requireDevice(ctx, deviceId).pk;
  ctx.db
    .update(tables[kind])
    .set({ ...fields, devicePk, editedFields: addEdited(component.editedFields, fields), updatedAt: ctx.now() })
    .where(eq(tables[kind].pk, component.pk))
    .run();
  if (kind === "sensor" && retentionDays !== undefined) setRetention(ctx, component.pk, retentionDays);
  if (kind === "sensor" && devicePk !== undefined) {
    const { pk: formerPk } = requireDevice(ctx, component.deviceId);
    moveAlerts(ctx, component.pk, formerPk, devicePk);
  }
}

function setRetention(ctx: Ctx, sensorPk: number, retentionDays: number | null): void {
  ctx.db.update(sensors).set({ retentionDays }).where(eq(sensors.pk, sensorPk)).run();
  ctx.emit("retention.changed", {});
}

/** Rules that watch a sensor go with it, and what they have found: it is no fault of its former device any more. */
function moveAlerts(ctx: Ctx, sensorPk: number, formerPk: number, devicePk: number): void {
  const ofSensor = eq(alertRules.sensorPk, sensorPk);
  const rules = ctx.db.select({ pk: alertRules.pk }).from(alertRules).where(ofSensor);
  changeStatus(ctx, formerPk, () =>
    changeStatus(ctx, devicePk, () => {
      ctx.db.update(alerts).set({ devicePk }).where(inArray(alerts.rulePk, rules)).run();
      ctx.db.update(alertRules).set({ devicePk }).where(ofSensor).run();
    }),
  );
}

/** Removes a sensor or an actor; a sensor's readings are out of reach at once, and their rows go in the background. */
export function deleteComponent(ctx: Ctx, kind: ComponentKind, id: string): void {
  const { pk } = getComponent(ctx, kind, id);
  ctx.db.delete(tables[kind]).where(eq(tables[kind].pk, pk)).run();
  if (kind === "sensor") {
    ctx.db.insert(purges).values({ sensorPk: pk }).run();
    ctx.emit("sensors.removed", { count: 1 });
  }
}
