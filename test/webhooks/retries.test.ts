import { createServer, type Server } from "node:net";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { retryDelaysMs } from "../../src/core/deliveries.ts";
import type { Delivery } from "../../src/core/webhooks.ts";
import { until } from "../support/client.ts";
import { start } from "../support/store.ts";
import { openOutbox, type Outbox, type OutboxOptions } from "./outbox.ts";
import {
  findClosedPort,
  openReceiver,
  signAsLibrary,
  silence,
  status,
  type Answer,
  type Receiver,
} from "./receiver.ts";

// How a webhook is delivered when its receiver does not take it: by a clock that stands until it is set, to a real server.

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

function outboxOf(options?: OutboxOptions): Outbox {
  const outbox = openOutbox(options);
  closing.push(() => outbox.close());
  return outbox;
}

async function receiverOf(answer?: Answer): Promise<Receiver> {
  const receiver = await openReceiver(answer);
  closing.push(() => receiver.close());
  return receiver;
}

/** A server below HTTP, that does with a connection what it wants. */
async function openRaw(answer: string): Promise<string> {
  const server: Server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.write(answer));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closing.push(async () => void server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}

const seconds = 1_000;
const minutes = 60 * seconds;
const hours = 60 * minutes;

/** The schedule as it is promised. */
const schedule = [
  5 * seconds,
  5 * minutes,
  30 * minutes,
  2 * hours,
  5 * hours,
  10 * hours,
  14 * hours,
  20 * hours,
  24 * hours,
];

const waitOf = ({ nextAttemptAt, lastAttemptAt }: Delivery): number => nextAttemptAt - (lastAttemptAt ?? NaN);

function expectDelay(delivery: Delivery, delay: number): void {
  expect(waitOf(delivery)).toBeGreaterThanOrEqual(delay);
  expect(waitOf(delivery)).toBeLessThanOrEqual(delay * 1.1);
}

describe("the schedule", () => {
  test("is 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h, a tenth more at the most, and then no more", async () => {
    const receiver = await receiverOf(status(500));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url, ["device.online"], "shared secret");
    await outbox.tell({ deviceId: "SC-TEMP-001" });
    for (const [i, delay] of schedule.entries()) {
      const tries = i + 1;
      const failed = await outbox.tried(webhook, tries);
      expect(failed).toMatchObject({ status: "pending", attempts: tries, responseStatus: 500, error: "HTTP 500" });
      expectDelay(failed, delay);
      outbox.clock.at = failed.nextAttemptAt - 1;
      await outbox.looks();
      expect(receiver.received).toHaveLength(tries);
      outbox.clock.at = failed.nextAttemptAt;
      await receiver.count(tries + 1);
    }
    expect(await outbox.tried(webhook, 10)).toMatchObject({ status: "failed", attempts: 10, error: "HTTP 500" });
    outbox.clock.at += 1_000 * hours;
    await outbox.looks();
    expect(receiver.received).toHaveLength(10);
    expect([...retryDelaysMs]).toEqual(schedule);

    const ids = new Set(receiver.received.map(({ headers }) => headers["webhook-id"]));
    expect(ids).toEqual(new Set([outbox.deliveries(webhook)[0]?.id]));
    // One body for ever, each time under the time of its own and a signature over it.
    expect(new Set(receiver.received.map(({ text }) => text)).size).toBe(1);
    expect(receiver.received[0]?.body).toEqual({
      type: "device.online",
      timestamp: "2026-01-14T10:00:00Z",
      data: { deviceId: "SC-TEMP-001" },
    });
    const times = receiver.received.map(({ headers }) => Number(headers["webhook-timestamp"]));
    expect(new Set(times).size).toBe(10);
    expect(times[0]).toBe(start / 1_000);
    expect(times[9]).toBeGreaterThan(start / 1_000 + (75 * hours) / 1_000);
    for (const request of receiver.received)
      expect(request.headers["webhook-signature"]).toBe(signAsLibrary(request, "shared secret"));
  });

  test("ends with the first answer of 2xx", async () => {
    const receiver = await receiverOf((request, response, n) => status(n < 3 ? 503 : 299)(request, response, n));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    for (const tries of [1, 2]) outbox.clock.at = (await outbox.tried(webhook, tries)).nextAttemptAt;
    expect(await outbox.tried(webhook, 3)).toMatchObject({ status: "delivered", responseStatus: 299, error: null });
    outbox.clock.at += 1_000 * hours;
    await outbox.looks();
    expect(receiver.received).toHaveLength(3);
    expect(outbox.counters.snapshot()).toMatchObject({ "webhooks.delivered": 1, "webhooks.attempts_failed": 2 });
  });

  test("goes on after a restart where it was", async () => {
    const receiver = await receiverOf(status(500));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    const first = await outbox.tried(webhook, 1);
    await outbox.stopDelivery();
    await outbox.reopen();
    receiver.answer = status(204);
    outbox.startDelivery();
    await outbox.looks();
    expect(receiver.received).toHaveLength(1);
    outbox.clock.at = first.nextAttemptAt;
    expect(await outbox.tried(webhook, 2)).toMatchObject({ status: "delivered", id: first.id });
  });

  test("does not wait for years after a clock that was set back: what is put off beyond all delays is due", async () => {
    const receiver = await receiverOf(status(500));
    const outbox = outboxOf();
    outbox.clock.at = start + 9_000 * hours;
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    await outbox.tried(webhook, 1);
    await outbox.stopDelivery();
    outbox.clock.at = start;
    outbox.startDelivery();
    expect(await outbox.tried(webhook, 2)).toMatchObject({ lastAttemptAt: start });
  });
});

describe("a failure that is tried again", () => {
  test.each([
    ["a refused connection", async () => `http://127.0.0.1:${await findClosedPort()}/`, null, "ECONNREFUSED"],
    ["500", async () => (await receiverOf(status(500))).url, 500, "HTTP 500"],
    ["404", async () => (await receiverOf(status(404))).url, 404, "HTTP 404"],
    ["401", async () => (await receiverOf(status(401))).url, 401, "HTTP 401"],
    ["304", async () => (await receiverOf(status(304))).url, 304, "HTTP 304"],
    ["an answer that is no HTTP", () => openRaw("220 mail.example ESMTP\r\n"), null, "HPE_INVALID_CONSTANT"],
    [
      "a switch of protocols",
      () => openRaw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"),
      null,
      "the connection was closed without an answer",
    ],
  ] as const)("is %s", async (_name, open, responseStatus, error) => {
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(await open());
    await outbox.tell();
    const failed = await outbox.tried(webhook, 1);
    expect(failed).toMatchObject({ status: "pending", responseStatus, error });
    expectDelay(failed, 5 * seconds);
  });

  test("is a receiver that never answers", async () => {
    const receiver = await receiverOf(silence);
    const outbox = outboxOf({ sender: { timeoutMs: 100 } });
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    const failed = await outbox.tried(webhook, 1);
    expect(failed).toMatchObject({ status: "pending", responseStatus: null, error: "no answer within 0.1 s" });
    expectDelay(failed, 5 * seconds);
  });

  test.each([301, 302, 303, 307, 308])("is %i: a redirect is not followed", async (code) => {
    const elsewhere = await receiverOf();
    const receiver = await receiverOf(status(code, { Location: elsewhere.url }));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    expect(await outbox.tried(webhook, 1)).toMatchObject({ status: "pending", responseStatus: code });
    await outbox.looks();
    expect(elsewhere.received).toEqual([]);
  });
});

describe("an answer of 2xx", () => {
  test.each<[string, Answer]>([
    ["never ends", (_request, response) => void response.writeHead(200).write("to be continued")],
    [
      "is cut off",
      (_request, response) =>
        void response.writeHead(200, { "Content-Length": "1000" }).write("half of", () => response.destroy()),
    ],
  ])("is enough, even if what follows it %s", async (_name, answer) => {
    const receiver = await receiverOf(answer);
    const outbox = outboxOf({ sender: { timeoutMs: 100 } });
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    expect(await outbox.tried(webhook, 1)).toMatchObject({ status: "delivered", responseStatus: 200 });
  });

  test("is enough, however much comes with it: the rest is not read", async () => {
    let sent = 0;
    const flood: Answer = (_request, response) => {
      const chunk = Buffer.alloc(65_536, "x");
      function pour(): void {
        do sent += chunk.length;
        while (!response.destroyed && response.write(chunk));
        response.once("drain", pour);
      }
      response.on("error", () => undefined);
      response.writeHead(200);
      pour();
    };
    const receiver = await receiverOf(flood);
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    expect(await outbox.tried(webhook, 1)).toMatchObject({ status: "delivered", responseStatus: 200 });
    // What the sockets' buffers hold, and not the flood.
    expect(sent).toBeLessThan(50_000_000);
  });
});

describe("410", () => {
  test("disables the webhook and gives up what still waits, and nothing is queued any more", async () => {
    const receiver = await receiverOf(status(500));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell({ n: 1 });
    await outbox.tried(webhook, 1);
    receiver.answer = status(410);
    await outbox.tell({ n: 2 });
    await until(() => !outbox.webhook(webhook.id).isEnabled);
    expect(outbox.deliveries(webhook)).toMatchObject([
      { status: "failed", attempts: 1, responseStatus: 500, error: "given up: the receiver has answered 410" },
      { status: "failed", attempts: 1, responseStatus: 410 },
    ]);
    await outbox.tell({ n: 3 });
    outbox.clock.at += 1_000 * hours;
    await outbox.looks();
    expect(outbox.deliveries(webhook)).toHaveLength(2);
    expect(receiver.received).toHaveLength(2);
  });

  test("disables that webhook and no other", async () => {
    const [gone, here] = [await receiverOf(status(410)), await receiverOf()];
    const outbox = outboxOf();
    const goneHook = await outbox.addWebhook(gone.url);
    const hereHook = await outbox.addWebhook(here.url);
    await outbox.tell();
    await until(() => !outbox.webhook(goneHook.id).isEnabled);
    await outbox.tell();
    await here.count(2);
    expect(outbox.webhook(hereHook.id).isEnabled).toBe(true);
  });
});

describe("Retry-After", () => {
  const httpDate = (at: number): string => new Date(at).toUTCString();
  test.each([
    ["in seconds, longer than the schedule", "120", 120 * seconds],
    ["as a date", httpDate(start + 90 * seconds), 90 * seconds],
    ["of more than a day, as a day", "10000000", 24 * hours],
  ] as const)("%s: nothing at all is sent to the receiver until then", async (_name, header, rest) => {
    const receiver = await receiverOf(status(429, { "Retry-After": header }));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell({ n: 1 });
    const refused = await outbox.tried(webhook, 1);
    expect(refused).toMatchObject({ status: "pending", responseStatus: 429, error: "HTTP 429" });
    expect(waitOf(refused)).toBe(rest);
    receiver.answer = status(204);
    await outbox.tell({ n: 2 }); // another event's first try is a request too
    outbox.clock.at = start + rest - 1;
    await outbox.looks();
    expect(receiver.received).toHaveLength(1);
    outbox.clock.at = start + rest;
    await receiver.count(3);
    expect(receiver.received.map(({ body }) => body.data.n).toSorted((a, b) => a - b)).toEqual([1, 1, 2]);
  });

  test.each([
    ["shorter than the schedule", "1"],
    ["in the past", httpDate(start - hours)],
    ["that says nothing", "soon"],
    ["of a fraction", "1.5"],
  ])("%s: the schedule holds", async (_name, header) => {
    const receiver = await receiverOf(status(503, { "Retry-After": header }));
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    const refused = await outbox.tried(webhook, 1);
    expect(refused).toMatchObject({ status: "pending", responseStatus: 503 });
    expectDelay(refused, 5 * seconds);
  });

  test("holds up its own webhook and no other", async () => {
    const [limited, free] = [await receiverOf(status(429, { "Retry-After": "3600" })), await receiverOf()];
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(limited.url);
    await outbox.addWebhook(free.url);
    await outbox.tell({ n: 1 });
    await outbox.tried(webhook, 1);
    await outbox.tell({ n: 2 });
    await free.count(2);
    expect(limited.received).toHaveLength(1);
  });
});

describe("many webhooks", () => {
  test("wait for none that is slow, and a slow one gets one request at a time", async () => {
    const slow = await Promise.all(Array.from({ length: 12 }, () => receiverOf(silence)));
    const fast = await receiverOf();
    const outbox = outboxOf({ sender: { timeoutMs: 60_000 } });
    for (const { url } of slow) await outbox.addWebhook(url);
    const webhook = await outbox.addWebhook(fast.url);
    for (let n = 1; n <= 20; n++) await outbox.tell({ n });
    await fast.count(20);
    await until(() => outbox.deliveries(webhook).every((delivery) => delivery.status === "delivered"));
    expect(fast.received.map(({ body }) => body.data.n)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    expect(slow.map(({ received }) => received.length)).toEqual(slow.map(() => 1));
  });

  test("are cut off at the end without being counted as failures, and start again from where they were", async () => {
    const receiver = await receiverOf(silence);
    const outbox = outboxOf({ sender: { timeoutMs: 60_000 } });
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    await receiver.count(1);
    await outbox.stopDelivery();
    expect(outbox.deliveries(webhook)).toMatchObject([{ status: "pending", attempts: 0 }]);
    receiver.answer = status(204);
    outbox.startDelivery();
    expect(await outbox.tried(webhook, 1)).toMatchObject({ status: "delivered" });
    expect(new Set(receiver.received.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
  });
});

describe("a queue that is full", () => {
  test("gives up the oldest, counts them, and delivers the rest", async () => {
    const outbox = outboxOf({ limits: { maxPending: 10 } });
    const port = await findClosedPort();
    const webhook = await outbox.addWebhook(`http://127.0.0.1:${port}/`);
    for (let n = 1; n <= 25; n++) await outbox.tell({ n });
    await until(() => outbox.webhook(webhook.id).dropped === 15);
    const all = outbox.deliveries(webhook);
    expect(all.slice(0, 15).every(({ status: state }) => state === "failed")).toBe(true);
    expect(all[0]?.error).toBe("given up: too many were waiting");
    expect(all.slice(15).every(({ status: state }) => state === "pending")).toBe(true);
    expect(outbox.counters.snapshot()["webhooks.dropped"]).toBe(15);
    await until(() =>
      outbox.deliveries(webhook).every(({ status: state, attempts }) => state === "failed" || attempts > 0),
    );
    const receiver = await openReceiver(status(204), port);
    closing.push(() => receiver.close());
    outbox.clock.at += 2 * hours;
    await receiver.count(10);
    expect(receiver.received.map(({ body }) => body.data.n).toSorted((a, b) => a - b)).toEqual(
      Array.from({ length: 10 }, (_, i) => i + 16),
    );
  });

  test.each([
    [500, { status: "failed", attempts: 0, error: "given up: too many were waiting" }],
    [204, { status: "delivered", attempts: 1, error: null }],
  ])("may give up what is being tried, and an answer of %i to it is what it is", async (code, outcome) => {
    let release: (() => void) | undefined;
    const receiver = await receiverOf((_request, response) => {
      release = () => response.writeHead(code).end();
    });
    const outbox = outboxOf({ limits: { maxPending: 1 } });
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell({ n: 1 });
    await receiver.count(1);
    await outbox.tell({ n: 2 });
    await until(() => outbox.webhook(webhook.id).dropped === 1);
    receiver.answer = status(204);
    release?.();
    await receiver.count(2);
    expect(outbox.deliveries(webhook)[0]).toMatchObject(outcome);
    outbox.clock.at += 1_000 * hours;
    await outbox.looks();
    expect(receiver.received.map(({ body }) => body.data.n)).toEqual([1, 2]);
  });
});

describe("the log of deliveries", () => {
  test("keeps a thousand of a webhook and no body of what is over", async () => {
    const receiver = await receiverOf();
    const outbox = outboxOf();
    const webhook = await outbox.addWebhook(receiver.url);
    await outbox.tell();
    await outbox.tried(webhook, 1);
    await outbox.stopDelivery();
    outbox.store.db.$client.exec(
      `INSERT INTO deliveries (id, webhook_pk, event, body, status, next_attempt_at, created_at)
       WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
       SELECT i, ${webhook.pk}, 'device.online', '', 'delivered', 0, ${start} FROM n`,
    );
    expect(outbox.deliveries(webhook)[0]?.body).toBe("");
    const count = (): unknown => outbox.store.db.$client.prepare("SELECT count(*) FROM deliveries").pluck().get();
    expect(count()).toBe(1_201);
    outbox.startDelivery();
    await until(() => count() === 1_000);
    await outbox.stopDelivery();
    outbox.clock.at += 8 * 24 * hours;
    outbox.startDelivery();
    await until(() => count() === 0);
  });
});
