import { and, eq, exists, isNull, sql, type SQL } from "drizzle-orm";
import { alertRules, alerts, devices } from "../store/schema.ts";
import type { Db } from "../store/open.ts";

// One status, two vocabularies. The root API counts: 1 ok, 2 pending, 3 lost, 4 disabled. /v1 has three words.

export const deviceStatus = { ok: 1, pending: 2, lost: 3, disabled: 4 } as const;

export type StatusWord = "online" | "offline" | "error";
export const statusWords = ["online", "offline", "error"] as const satisfies readonly StatusWord[];

/** The word for a status: a fault or a critical alert outweighs everything but an administrator's "disabled". */
export function wordOf(statusId: number, isFaulty: boolean): StatusWord {
  if (isFaulty && statusId !== deviceStatus.disabled) return "error";
  return statusId === deviceStatus.ok ? "online" : "offline";
}

/** The status that a word asks for: to enable or to disable. An error is observed, never asked for. */
export const statusOf = (word: "online" | "offline"): number =>
  word === "online" ? deviceStatus.ok : deviceStatus.disabled;

/** A device's id as /v1 shows it: its own, else its UUID. */
export const displayId = sql<string>`coalesce(${devices.externalId}, ${devices.id})`;

/** True where a device has reported a fault or has an active alert that is critical. */
const hasFault = (db: Db): SQL<boolean> =>
  sql<boolean>`(${devices.isFaulty} OR ${exists(
    db
      .select({ one: sql`1` })
      .from(alerts)
      .innerJoin(alertRules, eq(alertRules.pk, alerts.rulePk))
      .where(and(eq(alerts.devicePk, devices.pk), isNull(alerts.resolvedAt), eq(alertRules.severity, "critical"))),
  )})`.mapWith(Boolean);

/** {@link wordOf} for a query over devices. */
export const wordColumn = (db: Db): SQL<StatusWord> =>
  sql<StatusWord>`CASE
    WHEN ${devices.statusId} <> ${deviceStatus.disabled} AND ${hasFault(db)} THEN 'error'
    WHEN ${devices.statusId} = ${deviceStatus.ok} THEN 'online'
    ELSE 'offline' END`;
