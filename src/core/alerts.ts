import { and, asc, count, desc, eq, isNotNull, isNull, lte, type SQL } from "drizzle-orm";
import { alertRules, alerts, devices, sensors } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { changeStatus } from "./devices.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import { readProgress, setProgress } from "./progress.ts";
import { displayId } from "./status.ts";
import { formatInstant } from "./time.ts";
import { enqueueEvent } from "./webhooks.ts";

// Alerts. A rule watches one sensor. Its state is in the store, so that neither a restart nor a crash fires twice or
// forgets; readings are looked at in the order of their commits, behind a watermark of their own.

export const conditions = ["gt", "gte", "lt", "lte", "outside", "no_data"] as const;
export type Condition = (typeof conditions)[number];
export const severities = ["info", "warning", "critical"] as const;
export type Severity = (typeof severities)[number];

type RuleRow = typeof alertRules.$inferSelect;
export interface AlertRule extends RuleRow {
  /** The device's id as /v1 shows it, and the sensor's UUID. */
  deviceId: string;
  sensorId: string;
  /** Its alert that is not over; null: there is none. */
  active: AlertRow | null;
}
type AlertRow = typeof alerts.$inferSelect;
export interface Alert extends Omit<AlertRow, "rulePk" | "devicePk"> {
  ruleId: string;
  deviceId: string;
  sensorId: string;
  condition: Condition;
  severity: Severity;
}

export interface RuleInput {
  devicePk: number;
  sensorPk: number;
  condition: Condition;
  threshold: number | null;
  thresholdHigh: number | null;
  forMs: number;
  clear: number | null;
  cooldownMs: number;
  severity: Severity;
  isEnabled: boolean;
}

const selectRules = (ctx: Ctx, where?: SQL): AlertRule[] =>
  ctx.db
    .select({ rule: alertRules, deviceId: displayId, sensorId: sensors.id, active: alerts })
    .from(alertRules)
    .innerJoin(devices, eq(devices.pk, alertRules.devicePk))
    .innerJoin(sensors, eq(sensors.pk, alertRules.sensorPk))
    .leftJoin(alerts, and(eq(alerts.rulePk, alertRules.pk), isNull(alerts.resolvedAt)))
    .where(where)
    .orderBy(asc(alertRules.pk))
    .all()
    .map(({ rule, ...rest }) => ({ ...rule, ...rest }));

/** All rules, oldest first. */
export const listRules = (ctx: Ctx): AlertRule[] => selectRules(ctx);

/** @throws {DomainError} `not_found` */
export function getRule(ctx: Ctx, id: string): AlertRule {
  const [rule] = selectRules(ctx, eq(alertRules.id, id));
  if (rule === undefined) throw new DomainError("not_found", "alert rule not found");
  return rule;
}

/** A rule looks at what comes from now on. @throws {DomainError} `conflict` past `maxRules` */
export function createRule(ctx: Ctx, input: RuleInput, { maxRules }: { maxRules: number }): AlertRule {
  const existing = ctx.db.select({ n: count() }).from(alertRules).get()?.n ?? 0;
  if (existing >= maxRules) throw new DomainError("conflict", `no more than ${maxRules} alert rules; delete one first`);
  const now = ctx.now();
  const id = newUuid();
  catchUp(ctx);
  ctx.db
    .insert(alertRules)
    .values({
      id,
      ...input,
      lastValueAt: newestReadingAt(ctx, input.sensorPk),
      lastArrivalAt: now,
      createdAt: now,
      updatedAt: now,
    })
    .run();
  return getRule(ctx, id);
}

/** Changes a rule; it starts anew, and an alert of the rule as it was is resolved. @throws {DomainError} `not_found` */
export function updateRule(ctx: Ctx, id: string, input: Omit<RuleInput, "devicePk">): AlertRule {
  catchUp(ctx);
  const rule = getRule(ctx, id);
  resolveActive(ctx, rule);
  const now = ctx.now();
  ctx.db
    .update(alertRules)
    .set({
      ...input,
      pendingSince: null,
      lastFiredAt: null,
      lastValueAt: newestReadingAt(ctx, input.sensorPk),
      lastArrivalAt: now,
      updatedAt: now,
    })
    .where(eq(alertRules.pk, rule.pk))
    .run();
  return getRule(ctx, id);
}

/** Removes a rule with its alerts; an active one is resolved first. @throws {DomainError} `not_found` */
export function deleteRule(ctx: Ctx, id: string): void {
  const rule = getRule(ctx, id);
  resolveActive(ctx, rule);
  ctx.db.delete(alertRules).where(eq(alertRules.pk, rule.pk)).run();
}

export interface AlertQuery {
  state?: "active" | "resolved" | undefined;
  devicePk?: number | undefined;
  limit: number;
  offset: number;
}

/** Alerts, newest first. */
export function listAlerts(
  ctx: Ctx,
  { state, devicePk, limit, offset }: AlertQuery,
): { alerts: Alert[]; total: number } {
  const where = and(
    state === undefined ? undefined : state === "active" ? isNull(alerts.resolvedAt) : isNotNull(alerts.resolvedAt),
    devicePk === undefined ? undefined : eq(alerts.devicePk, devicePk),
  );
  const rows = ctx.db
    .select({
      alert: alerts,
      ruleId: alertRules.id,
      condition: alertRules.condition,
      severity: alertRules.severity,
      deviceId: displayId,
      sensorId: sensors.id,
    })
    .from(alerts)
    .innerJoin(alertRules, eq(alertRules.pk, alerts.rulePk))
    .innerJoin(devices, eq(devices.pk, alertRules.devicePk))
    .innerJoin(sensors, eq(sensors.pk, alertRules.sensorPk))
    .where(where)
    .orderBy(desc(alerts.pk))
    .limit(limit)
    .offset(offset)
    .all();
  return {
    alerts: rows.map(({ alert, ...rest }) => ({ ...alert, ...rest })),
    total: ctx.db.select({ n: count() }).from(alerts).where(where).get()?.n ?? 0,
  };
}

/** Without one there is nothing to look at. */
export const hasEnabledRules = (ctx: Ctx): boolean =>
  ctx.db.select({ pk: alertRules.pk }).from(alertRules).where(eq(alertRules.isEnabled, true)).limit(1).get() !==
  undefined;

const newestReadingAt = (ctx: Ctx, sensorPk: number): number | null => ctx.readings.newest(sensorPk)?.valueAt ?? null;

const watermarkName = "alerts";

const readingsPerCatchUp = 1_000;

/** Brings the watermark to the newest reading: what has come until now is no matter of a rule that begins now. */
function catchUp(ctx: Ctx): void {
  if (hasEnabledRules(ctx)) while (evaluateReadings(ctx, readingsPerCatchUp) === readingsPerCatchUp);
  else setProgress(ctx, watermarkName, ctx.readings.lastId());
}

/**
 * Holds the next `limit` readings against the rules.
 * @returns how many there were; fewer than `limit`: every reading has been looked at
 */
export function evaluateReadings(ctx: Ctx, limit: number): number {
  const rows = ctx.readings.after(readProgress(ctx, watermarkName) ?? 0, limit);
  const last = rows.at(-1);
  if (last === undefined) return 0;
  const bySensor = Map.groupBy(selectRules(ctx, eq(alertRules.isEnabled, true)), ({ sensorPk }) => sensorPk);
  const touched = new Set<AlertRule>();
  for (const { sensorPk, value, valueAt } of rows) {
    for (const rule of bySensor.get(sensorPk) ?? []) {
      // Back-fill changes no alert: only what is newer than all that the rule has seen counts. Of two readings of one
      // instant the one that came later is the newer one.
      if (rule.lastValueAt !== null && valueAt < rule.lastValueAt) continue;
      Object.assign(rule, { lastValueAt: valueAt, lastValue: value, lastArrivalAt: ctx.now() });
      touched.add(rule);
      judge(ctx, rule, Math.min(valueAt, ctx.now()));
    }
  }
  for (const rule of touched) saveState(ctx, rule);
  setProgress(ctx, watermarkName, last.id);
  return rows.length;
}

/**
 * What time alone brings about: a condition that has held long enough, a sensor that has been silent too long.
 * `startedAt`: nobody can be heard while the gateway is off, so silence counts from its start at the earliest.
 */
export function evaluateTime(ctx: Ctx, startedAt: number): void {
  for (const rule of selectRules(ctx, eq(alertRules.isEnabled, true))) {
    const before = { pendingSince: rule.pendingSince, lastFiredAt: rule.lastFiredAt };
    if (rule.condition === "no_data") {
      const heardAt = rule.lastArrivalAt ?? rule.createdAt;
      // Heard in the future: the clock was set back since.
      const silentSince = heardAt > ctx.now() ? startedAt : Math.max(heardAt, startedAt);
      if (ctx.now() - silentSince >= rule.forMs) fire(ctx, rule);
    } else if (rule.pendingSince !== null) judge(ctx, rule, ctx.now());
    if (rule.pendingSince !== before.pendingSince || rule.lastFiredAt !== before.lastFiredAt) saveState(ctx, rule);
  }
}

/** Holds a rule's newest value against its condition, at an instant of the readings' own time. */
function judge(ctx: Ctx, rule: AlertRule, at: number): void {
  if (rule.condition === "no_data") {
    resolveActive(ctx, rule);
    return;
  }
  if (rule.lastValue === null) return;
  if (rule.active !== null) {
    if (hasCleared(rule, rule.lastValue)) resolveActive(ctx, rule);
    return;
  }
  if (!holds(rule, rule.lastValue)) {
    rule.pendingSince = null;
    return;
  }
  rule.pendingSince ??= at;
  if (at - rule.pendingSince >= rule.forMs) fire(ctx, rule);
}

function holds({ condition, threshold, thresholdHigh }: RuleRow, value: number): boolean {
  const bound = threshold ?? 0;
  switch (condition) {
    case "gt":
      return value > bound;
    case "gte":
      return value >= bound;
    case "lt":
      return value < bound;
    case "lte":
      return value <= bound;
    case "outside":
      return value < bound || value > (thresholdHigh ?? bound);
    default:
      return false; // no_data is a matter of time, not of values
  }
}

/** Hysteresis: with `clear`, an alert ends only when the value has come back that far; for `outside`, so far inside. */
function hasCleared(rule: RuleRow, value: number): boolean {
  const { condition, threshold, thresholdHigh, clear } = rule;
  // With `clear` at the threshold itself, what holds has not cleared.
  if (clear === null || holds(rule, value)) return !holds(rule, value);
  if (condition === "gt" || condition === "gte") return value <= clear;
  if (condition === "lt" || condition === "lte") return value >= clear;
  return value >= (threshold ?? 0) + clear && value <= (thresholdHigh ?? 0) - clear;
}

/** A rule whose value swings about its bound for years leaves no more alerts behind than that. */
const alertsKeptPerRule = 1_000;

/** Once an activation, and not again before the cooldown is over. */
function fire(ctx: Ctx, rule: AlertRule): void {
  const now = ctx.now();
  if (rule.active !== null) return;
  if (rule.lastFiredAt !== null && Math.abs(now - rule.lastFiredAt) < rule.cooldownMs) return;
  rule.lastFiredAt = now;
  const value = rule.condition === "no_data" ? null : rule.lastValue;
  changeStatus(ctx, rule.devicePk, () => {
    const alert = ctx.db
      .insert(alerts)
      .values({ id: newUuid(), rulePk: rule.pk, devicePk: rule.devicePk, value, triggeredAt: now })
      .returning()
      .get();
    rule.active = alert;
    announce(ctx, "alert.triggered", rule, alert);
  });
  forgetOldAlerts(ctx, rule);
}

function forgetOldAlerts(ctx: Ctx, { pk }: RuleRow): void {
  const oldest = ctx.db
    .select({ pk: alerts.pk })
    .from(alerts)
    .where(eq(alerts.rulePk, pk))
    .orderBy(desc(alerts.pk))
    .limit(1)
    .offset(alertsKeptPerRule)
    .get();
  if (oldest === undefined) return;
  ctx.db
    .delete(alerts)
    .where(and(eq(alerts.rulePk, pk), lte(alerts.pk, oldest.pk)))
    .run();
}

function resolveActive(ctx: Ctx, rule: AlertRule): void {
  rule.pendingSince = null;
  const { active } = rule;
  if (active === null) return;
  changeStatus(ctx, rule.devicePk, () => {
    const alert = ctx.db
      .update(alerts)
      .set({ resolvedAt: ctx.now() })
      .where(eq(alerts.pk, active.pk))
      .returning()
      .get();
    rule.active = null;
    announce(ctx, "alert.resolved", rule, alert);
  });
}

function announce(
  ctx: Ctx,
  event: "alert.triggered" | "alert.resolved",
  rule: AlertRule,
  { id, value, triggeredAt, resolvedAt }: AlertRow,
): void {
  const data = {
    alertId: id,
    ruleId: rule.id,
    deviceId: rule.deviceId,
    sensor: rule.sensorId,
    condition: rule.condition,
    threshold: rule.condition === "outside" ? [rule.threshold, rule.thresholdHigh] : rule.threshold,
    severity: rule.severity,
    value,
    triggeredAt: formatInstant(triggeredAt),
    ...(resolvedAt !== null && { resolvedAt: formatInstant(resolvedAt) }),
  };
  enqueueEvent(ctx, event, data);
  ctx.emit("alert", { event, deviceId: rule.deviceId, data });
}

function saveState(ctx: Ctx, { pk, pendingSince, lastFiredAt, lastValueAt, lastValue, lastArrivalAt }: RuleRow): void {
  ctx.db
    .update(alertRules)
    .set({ pendingSince, lastFiredAt, lastValueAt, lastValue, lastArrivalAt })
    .where(eq(alertRules.pk, pk))
    .run();
}
