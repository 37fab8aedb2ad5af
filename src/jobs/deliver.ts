import type { Domain } from "../core/ctx.ts";
import type { Bus } from "../core/events.ts";
import {
  isDelivered,
  isOutboxFull,
  listDue,
  maxRetryAfterMs,
  recordAttempt,
  signDelivery,
  trimDeliveryLog,
  trimOutbox,
  type DueDelivery,
} from "../core/deliveries.ts";
import { enqueueData, isDataWaiting, type WebhookLimits } from "../core/webhooks.ts";
import type { Counters } from "../counters.ts";
import type { Log } from "../log.ts";
import { startPeriodic, type Job } from "./periodic.ts";
import type { Send } from "./send.ts";

export interface DeliverOptions {
  domain: Domain;
  bus: Bus;
  log: Log;
  counters: Counters;
  now: () => number;
  send: Send;
  limits: WebhookLimits;
  everyMs?: number;
}

/** Whatever wakes it, due retries are looked for so often. */
const intervalMs = 1_000;
/**
 * Requests at once, each to another webhook: more than anybody has webhooks, so that receivers that are slow, all but one
 * of them too, hold up their own deliveries and no others.
 */
const maxParallel = 100;
/** The log of deliveries is cut back once an hour. */
const trimEveryMs = 60 * 60 * 1_000;

const system = { kind: "system" } as const;

/** Sends what is in the outbox. What was sent is noted after the answer, so a crash repeats a delivery and loses none. */
export function startDeliver({
  domain,
  bus,
  log,
  counters,
  now,
  send,
  limits,
  everyMs = intervalMs,
}: DeliverOptions): Job {
  /** Webhooks with a request under way. */
  const busy = new Map<number, Promise<void>>();
  /** Webhooks whose receiver has asked to be left alone, and until when. */
  const resting = new Map<number, number>();
  const stopping = new AbortController();
  let checkedAt = -Infinity;
  let trimmedAt = -Infinity;

  async function attempt(due: DueDelivery): Promise<void> {
    let isNoted = false;
    try {
      const result = await send({
        url: due.webhook.url,
        headers: signDelivery(due, now()),
        body: due.delivery.body,
        signal: stopping.signal,
      });
      if (stopping.signal.aborted && result.status === undefined) return; // cut off, not refused: it is due at the next start
      const isDone = isDelivered(result);
      if (!isDone && result.retryAfterMs !== undefined) resting.set(due.webhook.pk, now() + result.retryAfterMs);
      await domain.commit(system, (ctx) => recordAttempt(ctx, due, result));
      counters.increment(isDone ? "webhooks.delivered" : "webhooks.attempts_failed");
      isNoted = true;
    } catch (error) {
      log.sampled("webhooks.record", "what came of a delivery could not be noted; it will be repeated", { error });
    } finally {
      busy.delete(due.webhook.pk);
      // Otherwise only when its time comes: while the store takes no writes, it would go round as fast as the receiver answers.
      if (isNoted) job.wake();
    }
  }

  function isResting({ webhook: { pk } }: DueDelivery): boolean {
    const left = (resting.get(pk) ?? 0) - now();
    // A clock that was set back must not make a rest of years.
    if (left <= 0 || left > maxRetryAfterMs) resting.delete(pk);
    return resting.has(pk);
  }

  const job = startPeriodic({
    name: "webhooks",
    log,
    intervalMs: everyMs,
    async run(isStopping) {
      if (domain.read(system, isDataWaiting)) await domain.commit(system, enqueueData);
      const dropped = await trim();
      if (dropped > 0) counters.increment("webhooks.dropped", dropped);
      if (isStopping()) return;
      for (const due of domain.read(system, listDue)) {
        if (busy.size >= maxParallel) break;
        if (!busy.has(due.webhook.pk) && !isResting(due)) busy.set(due.webhook.pk, attempt(due));
      }
    },
  });

  /** Once an interval: to count a long queue takes longer than to look what is due. */
  async function trim(): Promise<number> {
    if (performance.now() - checkedAt < everyMs) return 0;
    checkedAt = performance.now();
    if (performance.now() - trimmedAt > trimEveryMs) {
      trimmedAt = performance.now();
      await domain.commit(system, trimDeliveryLog);
    }
    return domain.read(system, (ctx) => isOutboxFull(ctx, limits))
      ? domain.commit(system, (ctx) => trimOutbox(ctx, limits))
      : 0;
  }

  const unsubscribe = bus.on("delivery.queued", () => job.wake());
  job.wake();

  return {
    async stop() {
      unsubscribe();
      stopping.abort();
      await job.stop();
      await Promise.all(busy.values());
    },
  };
}
