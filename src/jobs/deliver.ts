import type { Domain } from "../core/ctx.ts";
import type { Bus } from "../core/events.ts";
import {
  enqueueData,
  isDataWaiting,
  isOutboxFull,
  listDue,
  recordAttempt,
  signDelivery,
  trimDeliveryLog,
  trimOutbox,
  type DueDelivery,
  type WebhookLimits,
} from "../core/webhooks.ts";
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
/** Requests at once, to as many webhooks: one receiver that is slow holds up its own deliveries and no others. */
const maxParallel = 8;
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
  const stopping = new AbortController();
  let trimmedAt = -Infinity;

  async function attempt(due: DueDelivery): Promise<void> {
    try {
      const result = await send({
        url: due.webhook.url,
        headers: signDelivery(due, now()),
        body: due.delivery.body,
        signal: stopping.signal,
      });
      if (stopping.signal.aborted && result.status === undefined) return; // cut off, not refused: it is due at the next start
      await domain.commit(system, (ctx) => recordAttempt(ctx, due, result));
      const isDelivered = result.status !== undefined && result.status >= 200 && result.status < 300;
      counters.increment(isDelivered ? "webhooks.delivered" : "webhooks.attempts_failed");
    } catch (error) {
      log.sampled("webhooks.record", "what came of a delivery could not be noted; it will be repeated", { error });
    } finally {
      busy.delete(due.webhook.pk);
      if (!stopping.signal.aborted) job.wake();
    }
  }

  const job = startPeriodic({
    name: "webhooks",
    log,
    intervalMs: everyMs,
    async run(isStopping) {
      if (domain.read(system, isDataWaiting)) await domain.commit(system, enqueueData);
      const dropped = await trim();
      if (dropped > 0) counters.increment("webhooks.dropped", dropped);
      while (!isStopping() && busy.size < maxParallel) {
        const [due] = domain.read(system, (ctx) => listDue(ctx, [...busy.keys()], 1));
        if (due === undefined) break;
        busy.set(due.webhook.pk, attempt(due));
      }
    },
  });

  async function trim(): Promise<number> {
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
