import type { Delivery, Webhook, WebhookEvent, WebhookLimits } from "../../src/core/webhooks.ts";
import { createWebhook, enqueueEvent, getWebhook, listDeliveries } from "../../src/core/webhooks.ts";
import { startDeliver } from "../../src/jobs/deliver.ts";
import type { Job } from "../../src/jobs/periodic.ts";
import { createSender, type SenderOptions } from "../../src/jobs/send.ts";
import { until } from "../support/client.ts";
import { openTestStore, type TestStore } from "../support/store.ts";

/** The outbox and its delivery, over a real store and real sockets, by a clock that stands until it is set. */
export interface Outbox extends TestStore {
  addWebhook(url: string, events?: WebhookEvent[], secret?: string): Promise<Webhook>;
  webhook(id: string): Webhook;
  /** Queues an event that every webhook of `device.online` is told of. */
  tell(data?: object): Promise<void>;
  /** A webhook's deliveries, oldest first. */
  deliveries(webhook: Webhook): Delivery[];
  /** Waits until a webhook's only delivery has been tried `n` times, and what came of it is noted. */
  tried(webhook: Webhook, n: number): Promise<Delivery>;
  /** Waits until the outbox has been looked through several times more. */
  looks(): Promise<void>;
  /** Stops delivering, as the gateway's end does. */
  stopDelivery(): Promise<void>;
  /** Delivers again, as after a restart. */
  startDelivery(): void;
}

export interface OutboxOptions {
  limits?: Partial<WebhookLimits>;
  sender?: Partial<SenderOptions>;
}

export function openOutbox({ limits = {}, sender = {} }: OutboxOptions = {}): Outbox {
  const t = openTestStore();
  const allLimits = { maxWebhooks: 20, maxPending: 10_000, ...limits };
  let reads = 0;
  let job: Job | undefined;
  const now = () => t.clock.at;
  const send = createSender({ ownPorts: () => [], now, timeoutMs: 5_000, ...sender });
  const deliveries = (webhook: Webhook) =>
    t.read((ctx) => listDeliveries(ctx, webhook.id, { limit: 1_000, offset: 0 })).deliveries.toReversed();
  const outbox: Outbox = Object.assign(Object.create(t) as TestStore, {
    addWebhook: (url: string, events: WebhookEvent[] = ["device.online"], secret?: string) =>
      t.commit((ctx) => createWebhook(ctx, { url, events, secret }, allLimits)),
    webhook: (id: string) => t.read((ctx) => getWebhook(ctx, id)),
    tell: (data: object = {}) => t.commit((ctx) => enqueueEvent(ctx, "device.online", data)),
    deliveries,
    tried: (webhook: Webhook, n: number) =>
      until(() => {
        const [delivery] = deliveries(webhook);
        return delivery !== undefined && delivery.attempts >= n && delivery;
      }),
    async looks() {
      const before = reads;
      await until(() => reads >= before + 15); // a look reads three times at the most
    },
    async stopDelivery() {
      await job?.stop();
      job = undefined;
    },
    startDelivery() {
      job = startDeliver({
        domain: {
          ...t.domain,
          read(actor, verb) {
            reads += 1;
            return t.domain.read(actor, verb);
          },
        },
        bus: t.bus,
        log: t.log,
        counters: t.counters,
        now,
        send,
        limits: allLimits,
        everyMs: 5,
      });
    },
    async close() {
      await job?.stop();
      await t.close();
    },
  });
  outbox.startDelivery();
  return outbox;
}
