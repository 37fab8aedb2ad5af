import { randomBytes } from "node:crypto";
import { and, asc, count, desc, eq, inArray, sql } from "drizzle-orm";
import { deliveries, devices, sensors, webhooks } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { displayId } from "./status.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import { formatInstant } from "./time.ts";

// Webhooks, and what they are told. The outbox is a table: an event is written to it in the transaction that caused it.
// `data.received` needs no row of its own until it is sent: the readings are the rows, and each webhook knows the last
// one that it has told of. How the outbox is emptied is in deliveries.ts.

export const webhookEvents = [
  "device.online",
  "device.offline",
  "data.received",
  "alert.triggered",
  "alert.resolved",
  "aggregation.completed",
] as const;
export type WebhookEvent = (typeof webhookEvents)[number];

export type Webhook = typeof webhooks.$inferSelect;
export type Delivery = typeof deliveries.$inferSelect;

export interface WebhookLimits {
  maxWebhooks: number;
  /** Deliveries that may wait for one webhook; beyond it the oldest are given up and counted. */
  maxPending: number;
}

/** What follows it in a secret is base64. */
export const secretPrefix = "whsec_";

/** @throws {DomainError} `conflict` past `maxWebhooks` */
export function createWebhook(
  ctx: Ctx,
  { url, events, secret }: { url: string; events: WebhookEvent[]; secret?: string | undefined },
  { maxWebhooks }: WebhookLimits,
): Webhook {
  const existing = ctx.db.select({ n: count() }).from(webhooks).get()?.n ?? 0;
  if (existing >= maxWebhooks)
    throw new DomainError("conflict", `no more than ${maxWebhooks} webhooks; delete one first`);
  return ctx.db
    .insert(webhooks)
    .values({
      id: newUuid(),
      url,
      events: [...new Set(events)],
      secret: secret ?? secretPrefix + randomBytes(32).toString("base64"),
      lastReadingId: ctx.readings.lastId(),
      createdAt: ctx.now(),
    })
    .returning()
    .get();
}

/** All webhooks, oldest first. */
export const listWebhooks = (ctx: Ctx): Webhook[] => ctx.db.select().from(webhooks).orderBy(asc(webhooks.pk)).all();

/** @throws {DomainError} `not_found` */
export function getWebhook(ctx: Ctx, id: string): Webhook {
  const webhook = ctx.db.select().from(webhooks).where(eq(webhooks.id, id)).get();
  if (webhook === undefined) throw new DomainError("not_found", "webhook not found");
  return webhook;
}

/** Removes a webhook with what was still to be delivered. @throws {DomainError} `not_found` */
export function deleteWebhook(ctx: Ctx, id: string): void {
  ctx.db
    .delete(webhooks)
    .where(eq(webhooks.pk, getWebhook(ctx, id).pk))
    .run();
}

/** A webhook's deliveries, newest first. @throws {DomainError} `not_found` */
export function listDeliveries(
  ctx: Ctx,
  id: string,
  { limit, offset }: { limit: number; offset: number },
): { deliveries: Delivery[]; total: number } {
  const { pk } = getWebhook(ctx, id);
  const where = eq(deliveries.webhookPk, pk);
  return {
    deliveries: ctx.db
      .select()
      .from(deliveries)
      .where(where)
      .orderBy(desc(deliveries.pk))
      .limit(limit)
      .offset(offset)
      .all(),
    total: ctx.db.select({ n: count() }).from(deliveries).where(where).get()?.n ?? 0,
  };
}

const listening = (ctx: Ctx, event: WebhookEvent): Webhook[] =>
  ctx.db
    .select()
    .from(webhooks)
    .where(
      and(
        eq(webhooks.isEnabled, true),
        sql`EXISTS (SELECT 1 FROM json_each(${webhooks.events}) WHERE value = ${event})`,
      ),
    )
    .all();

/** Writes an event to the outbox of every webhook that listens. To be called in the transaction that causes the event. */
export function enqueueEvent(ctx: Ctx, event: Exclude<WebhookEvent, "data.received">, data: object): void {
  const hooks = listening(ctx, event);
  for (const webhook of hooks) enqueue(ctx, webhook, event, data);
}

function enqueue(ctx: Ctx, { pk }: Webhook, event: WebhookEvent, data: object): Delivery {
  const now = ctx.now();
  ctx.emit("delivery.queued", {});
  return ctx.db
    .insert(deliveries)
    .values({
      id: `msg_${newUuid().replaceAll("-", "")}`,
      webhookPk: pk,
      event,
      body: JSON.stringify({ type: event, timestamp: formatInstant(now), data }),
      status: "pending",
      nextAttemptAt: now,
      createdAt: now,
    })
    .returning()
    .get();
}

/** Queues a delivery that says what it is, to try a receiver out. @throws {DomainError} `not_found`, `conflict` */
export function testWebhook(ctx: Ctx, id: string): Delivery {
  const webhook = getWebhook(ctx, id);
  if (!webhook.isEnabled)
    throw new DomainError("conflict", "the webhook is disabled: its receiver has answered 410; make a new one");
  const event = (webhook.events[0] ?? "device.online") as WebhookEvent;
  return enqueue(ctx, webhook, event, { test: true, webhookId: webhook.id });
}

/** One request a second, with what has come since: a hundred readings a second are no hundred requests. */
export const dataIntervalMs = 1_000;
const maxReadingsPerDelivery = 1_000;

/**
 * Requests of this kind that may wait for one receiver. Beyond it nothing is made up, and nothing is lost either: the
 * readings are in the store, and are told of once there is room again.
 */
const maxWaitingData = 60;

/** Not while the last one is still untried: what a slow receiver has no time for is gathered, and does not queue up. */
function isDataDue(ctx: Ctx, { pk, lastDataAt }: Webhook): boolean {
  if (Math.abs(ctx.now() - lastDataAt) < dataIntervalMs) return false;
  const waiting = ctx.db
    .select({ attempts: deliveries.attempts })
    .from(deliveries)
    .where(and(eq(deliveries.webhookPk, pk), eq(deliveries.status, "pending"), eq(deliveries.event, "data.received")))
    .limit(maxWaitingData)
    .all();
  return waiting.length < maxWaitingData && waiting.every(({ attempts }) => attempts > 0);
}

/** True where a webhook is to be told of readings, and its last second is over. */
export const isDataWaiting = (ctx: Ctx): boolean => {
  const newest = ctx.readings.lastId();
  return listening(ctx, "data.received").some((webhook) => webhook.lastReadingId < newest && isDataDue(ctx, webhook));
};

interface Source {
  deviceId: string;
  sensorId: string;
  unit: string | null;
}

const describeSensors = (ctx: Ctx, sensorPks: ReadonlySet<number>): Map<number, Source> =>
  new Map(
    ctx.db
      .select({ pk: sensors.pk, deviceId: displayId, sensorId: sensors.id, unit: sensors.unit })
      .from(sensors)
      .innerJoin(devices, eq(devices.pk, sensors.devicePk))
      .where(inArray(sensors.pk, [...sensorPks]))
      .all()
      .map(({ pk, ...source }) => [pk, source]),
  );

/** Makes up the `data.received` deliveries that are due, of a thousand readings at the most each. */
export function enqueueData(ctx: Ctx): void {
  for (const webhook of listening(ctx, "data.received")) {
    if (!isDataDue(ctx, webhook)) continue;
    const rows = ctx.readings.after(webhook.lastReadingId, maxReadingsPerDelivery);
    const last = rows.at(-1);
    if (last === undefined) continue;
    const sources = describeSensors(ctx, new Set(rows.map(({ sensorPk }) => sensorPk)));
    // Of sensors that are gone nothing is told.
    const told = rows.filter(({ sensorPk }) => sources.has(sensorPk));
    const queued =
      told.length === 0
        ? undefined
        : enqueue(ctx, webhook, "data.received", {
            readings: told.map(({ id, sensorPk, value, valueAt }) => {
              const { deviceId, sensorId, unit } = sources.get(sensorPk) as Source;
              return {
                id,
                deviceId,
                sensor: sensorId,
                timestamp: formatInstant(valueAt),
                value,
                ...(unit !== null && { unit }),
              };
            }),
          });
    ctx.db
      .update(webhooks)
      .set({ lastReadingId: last.id, lastDataAt: queued?.createdAt ?? ctx.now() })
      .where(eq(webhooks.pk, webhook.pk))
      .run();
  }
}
