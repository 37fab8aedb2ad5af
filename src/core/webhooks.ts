import { createHmac, randomBytes } from "node:crypto";
import { and, asc, count, desc, eq, gt, inArray, lte, sql } from "drizzle-orm";
import { deliveries, devices, readings, sensors, webhooks } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { displayId } from "./status.ts";
import { DomainError } from "./errors.ts";
import { newUuid } from "./ids.ts";
import { newestReadingId } from "./progress.ts";
import { formatInstant } from "./time.ts";

// Webhooks as Standard Webhooks 1.0.0 has them. The outbox is a table: an event is written to it in the transaction that
// caused it. `data.received` needs no row of its own until it is sent: the readings are the rows, and each webhook
// knows the last one that it has told of.

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

const secretPrefix = "whsec_";

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
      lastReadingId: newestReadingId(ctx),
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

/** Not while the last one is still untried: what a slow receiver has no time for is gathered, and does not queue up. */
const isDataDue = (ctx: Ctx, { pk, lastDataAt }: Webhook): boolean =>
  Math.abs(ctx.now() - lastDataAt) >= dataIntervalMs &&
  ctx.db
    .select({ pk: deliveries.pk })
    .from(deliveries)
    .where(
      and(
        eq(deliveries.webhookPk, pk),
        eq(deliveries.status, "pending"),
        eq(deliveries.nextAttemptAt, lastDataAt), // as it was made: straight to its place in the index
        eq(deliveries.event, "data.received"),
        eq(deliveries.attempts, 0),
      ),
    )
    .limit(1)
    .get() === undefined;

/** True where a webhook is to be told of readings, and its last second is over. */
export const isDataWaiting = (ctx: Ctx): boolean => {
  const newest = newestReadingId(ctx);
  return listening(ctx, "data.received").some((webhook) => webhook.lastReadingId < newest && isDataDue(ctx, webhook));
};

/** Makes up the `data.received` deliveries that are due, of a thousand readings at the most each. */
export function enqueueData(ctx: Ctx): void {
  for (const webhook of listening(ctx, "data.received")) {
    if (!isDataDue(ctx, webhook)) continue;
    const rows = ctx.db
      .select({
        id: readings.id,
        value: readings.value,
        valueAt: readings.valueAt,
        unit: sensors.unit,
        sensorId: sensors.id,
        deviceId: displayId,
      })
      .from(readings)
      // Of sensors that are gone nothing is told.
      .leftJoin(sensors, eq(sensors.pk, readings.sensorPk))
      .leftJoin(devices, eq(devices.pk, sensors.devicePk))
      .where(gt(readings.id, webhook.lastReadingId))
      .orderBy(asc(readings.id))
      .limit(maxReadingsPerDelivery)
      .all();
    const last = rows.at(-1);
    if (last === undefined) continue;
    const told = rows.filter(({ sensorId }) => sensorId !== null);
    const queued =
      told.length === 0
        ? undefined
        : enqueue(ctx, webhook, "data.received", {
            readings: told.map(({ id, deviceId, sensorId, value, valueAt, unit }) => ({
              id,
              deviceId,
              sensor: sensorId,
              timestamp: formatInstant(valueAt),
              value,
              ...(unit !== null && { unit }),
            })),
          });
    ctx.db
      .update(webhooks)
      .set({ lastReadingId: last.id, lastDataAt: queued?.createdAt ?? ctx.now() })
      .where(eq(webhooks.pk, webhook.pk))
      .run();
  }
}

/** True where {@link trimOutbox} has something to do. */
export const isOutboxFull = (ctx: Ctx, { maxPending }: WebhookLimits): boolean =>
  countPending(ctx).some(({ n }) => n > maxPending);

const countPending = (ctx: Ctx): { webhookPk: number; n: number }[] =>
  ctx.db
    .select({ webhookPk: deliveries.webhookPk, n: count() })
    .from(deliveries)
    .where(eq(deliveries.status, "pending"))
    .groupBy(deliveries.webhookPk)
    .all();

/** What is not sent any more is kept for the log alone, without its thousand readings. */
const emptied = { body: "" };

/** @returns how many were given up because too many were waiting */
export function trimOutbox(ctx: Ctx, { maxPending }: WebhookLimits): number {
  let dropped = 0;
  for (const { webhookPk, n } of countPending(ctx)) {
    if (n <= maxPending) continue;
    const oldest = ctx.db
      .select({ pk: deliveries.pk })
      .from(deliveries)
      .where(and(eq(deliveries.webhookPk, webhookPk), eq(deliveries.status, "pending")))
      .orderBy(asc(deliveries.pk))
      .limit(n - maxPending);
    ctx.db
      .update(deliveries)
      .set({ status: "failed", error: "given up: too many were waiting", ...emptied })
      .where(inArray(deliveries.pk, oldest))
      .run();
    ctx.db
      .update(webhooks)
      .set({ dropped: sql`${webhooks.dropped} + ${n - maxPending}` })
      .where(eq(webhooks.pk, webhookPk))
      .run();
    dropped += n - maxPending;
  }
  return dropped;
}

/** The log of what has been delivered or given up is kept for a week, and for a thousand of them a webhook. */
const logKeptMs = 7 * 24 * 60 * 60 * 1_000;
const logKeptRows = 1_000;

export function trimDeliveryLog(ctx: Ctx): void {
  ctx.db
    .delete(deliveries)
    .where(and(inArray(deliveries.status, ["delivered", "failed"]), lte(deliveries.createdAt, ctx.now() - logKeptMs)))
    .run();
  for (const { pk } of listWebhooks(ctx)) {
    // Further ahead than any delay: the clock was set back since. It is due now.
    ctx.db
      .update(deliveries)
      .set({ nextAttemptAt: ctx.now() })
      .where(
        and(
          eq(deliveries.webhookPk, pk),
          eq(deliveries.status, "pending"),
          gt(deliveries.nextAttemptAt, ctx.now() + 2 * maxRetryAfterMs),
        ),
      )
      .run();
    const kept = ctx.db
      .select({ pk: deliveries.pk })
      .from(deliveries)
      .where(eq(deliveries.webhookPk, pk))
      .orderBy(desc(deliveries.pk))
      .limit(1)
      .offset(logKeptRows)
      .get();
    if (kept === undefined) continue;
    ctx.db
      .delete(deliveries)
      .where(
        and(
          eq(deliveries.webhookPk, pk),
          lte(deliveries.pk, kept.pk),
          inArray(deliveries.status, ["delivered", "failed"]),
        ),
      )
      .run();
  }
}

export interface DueDelivery {
  delivery: Delivery;
  webhook: Webhook;
}

/** Of each webhook the delivery whose turn it is, if its time has come; those that wait the longest first. */
export const listDue = (ctx: Ctx): DueDelivery[] =>
  ctx.db
    .select({ delivery: deliveries, webhook: webhooks })
    .from(webhooks)
    .innerJoin(
      deliveries,
      eq(
        deliveries.pk,
        // One step into the index for each webhook, however long its queue is.
        sql`(SELECT pk FROM deliveries AS waiting WHERE waiting.webhook_pk = ${webhooks.pk} AND waiting.status = 'pending'
          AND waiting.next_attempt_at <= ${ctx.now()} ORDER BY waiting.next_attempt_at, waiting.pk LIMIT 1)`,
      ),
    )
    .where(eq(webhooks.isEnabled, true))
    .orderBy(asc(deliveries.nextAttemptAt), asc(deliveries.pk))
    .all();

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/** The waits after each failed try. */
export const retryDelaysMs = [
  5 * second,
  5 * minute,
  30 * minute,
  2 * hour,
  5 * hour,
  10 * hour,
  14 * hour,
  20 * hour,
  24 * hour,
] as const;
/** A tenth more at the most, so that receivers that come back are not met by everybody at once. */
const jitter = 0.1;

/** A receiver that asks for more is asked again after a day all the same. */
export const maxRetryAfterMs = 24 * hour;

/** What came of a try. */
export interface Attempt {
  /** The receiver's status; absent where no answer came. */
  status?: number | undefined;
  error?: string | undefined;
  /** Milliseconds that the receiver asks to be left alone. */
  retryAfterMs?: number | undefined;
}

/** The receiver has taken it. */
export const isDelivered = ({ status }: Attempt): boolean => status !== undefined && status >= 200 && status < 300;

/** Notes a try: 2xx is delivered, 410 ends the webhook, anything else is tried again until the delays run out. */
export function recordAttempt(
  ctx: Ctx,
  { delivery, webhook }: DueDelivery,
  attempt: Attempt,
  random: () => number = Math.random,
): void {
  const { status, error, retryAfterMs = 0 } = attempt;
  const attempts = delivery.attempts + 1;
  const now = ctx.now();
  const isDone = isDelivered(attempt);
  const delay = retryDelaysMs[attempts - 1];
  const isOver = isDone || status === 410 || delay === undefined;
  ctx.db
    .update(deliveries)
    .set({
      attempts,
      lastAttemptAt: now,
      responseStatus: status ?? null,
      error: isDone ? null : (error ?? `HTTP ${status}`),
      ...(isOver && emptied),
      status: isDone ? "delivered" : isOver ? "failed" : "pending",
      nextAttemptAt: isOver ? now : now + Math.max(retryAfterMs, Math.round((delay ?? 0) * (1 + jitter * random()))),
    })
    // What was given up during the try stays so: there is no body any more that could be sent again.
    .where(and(eq(deliveries.pk, delivery.pk), isDone ? undefined : eq(deliveries.status, "pending")))
    .run();
  if (status === 410) disable(ctx, webhook);
}

function disable(ctx: Ctx, { pk }: Webhook): void {
  ctx.db.update(webhooks).set({ isEnabled: false }).where(eq(webhooks.pk, pk)).run();
  ctx.db
    .update(deliveries)
    .set({ status: "failed", error: "given up: the receiver has answered 410", ...emptied })
    .where(and(eq(deliveries.webhookPk, pk), eq(deliveries.status, "pending")))
    .run();
}

/** The headers that let a receiver know who speaks (Standard Webhooks 1.0.0, "Webhook Headers"). */
export function signDelivery({ delivery, webhook }: DueDelivery, now: number): Record<string, string> {
  const timestamp = String(Math.floor(now / 1_000));
  const key = webhook.secret.startsWith(secretPrefix)
    ? Buffer.from(webhook.secret.slice(secretPrefix.length), "base64")
    : Buffer.from(webhook.secret, "utf8");
  const signature = createHmac("sha256", key).update(`${delivery.id}.${timestamp}.${delivery.body}`).digest("base64");
  return { "webhook-id": delivery.id, "webhook-timestamp": timestamp, "webhook-signature": `v1,${signature}` };
}
