import { createHmac } from "node:crypto";
import { and, asc, count, desc, eq, gt, inArray, lte, sql } from "drizzle-orm";
import { deliveries, webhooks } from "../store/schema.ts";
import type { Ctx } from "./ctx.ts";
import { listWebhooks, secretPrefix, type Delivery, type Webhook, type WebhookLimits } from "./webhooks.ts";

// What becomes of the outbox: what is due, what came of a try, what is given up, and what is kept as a log. Signatures,
// tries and their delays are those of Standard Webhooks 1.0.0.

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
