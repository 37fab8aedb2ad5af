import { createHmac } from "node:crypto";
import type { MqttClient } from "mqtt";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { recordReading } from "../../src/core/readings.ts";
import { completePeriods, rollUpStep } from "../../src/core/rounds.ts";
import { webhookEvents } from "../../src/core/webhooks.ts";
import { startRollup } from "../../src/jobs/rollup.ts";
import { connectMqtt, createApi, logIn, until, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";
import { addComponent } from "../support/store.ts";
import { openOutbox, type Outbox } from "./outbox.ts";
import { findClosedPort, openReceiver, silence, status, verify, type Receiver } from "./receiver.ts";

// What webhooks tell, to whom, and how a receiver knows who speaks: a whole gateway and a real HTTP server.

let gateway: LocalGateway;
let api: Api;
let client: MqttClient;

beforeAll(async () => {
  gateway = await startLocalGateway({
    env: {
      LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
      LAMBDAIOT_SERVER_RATE_LIMIT_PER_MINUTE: "1000000",
      LAMBDAIOT_WEBHOOKS_MAX_PENDING: "10",
      LAMBDAIOT_WEBHOOKS_MAX_WEBHOOKS: "12",
    },
  });
  api = await logIn(gateway.url);
  client = await connectMqtt(gateway.mqttUrl);
});
afterAll(async () => {
  await client.endAsync();
  await gateway.close();
});

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

async function receiverOf(...answer: Parameters<typeof openReceiver>): Promise<Receiver> {
  const receiver = await openReceiver(...answer);
  closing.push(() => receiver.close());
  return receiver;
}

interface Hook {
  id: string;
  secret: string;
}

async function addWebhook(url: string, events: string[], secret?: string): Promise<Hook> {
  const { status: code, body } = await api("POST", "/v1/webhooks", {
    url,
    events,
    ...(secret !== undefined && { secret }),
  });
  expect(code).toBe(201);
  closing.push(() => api("DELETE", `/v1/webhooks/${body.id}`));
  return body as Hook;
}

async function addDevice(id: string): Promise<{ id: string; sensor: string; uuid: string }> {
  const { status: code, body } = await api("POST", "/v1/devices", { id, name: id, type: "temperature" });
  expect(code).toBe(201);
  closing.push(() => api("DELETE", `/v1/devices/${id}`));
  return { id, sensor: body.sensors[0].id, uuid: body.uuid };
}

const point = (device: string, value: number, timestamp = new Date().toISOString()) =>
  api("POST", `/v1/data/${device}`, { timestamp, value, unit: "°C" });

describe("each event arrives, signed, with type, timestamp and data", () => {
  const timestamp = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z$/) as string;

  test("device.online when a device is heard, device.offline when it is not, and not once per message", async () => {
    const receiver = await receiverOf();
    const { secret } = await addWebhook(receiver.url, ["device.online", "device.offline"]);
    const { id, uuid } = await addDevice("SC-STATUS-1");
    await point(id, 20);
    await point(id, 21);
    for (const said of ["lost", "lost", "ok", "ok"]) {
      const response = { type: "device_check_response", device_id: uuid, status: said };
      await client.publishAsync("lambdaiot", JSON.stringify(response), { qos: 1 });
    }
    await api("PUT", `/v1/devices/${id}`, { status: "offline" });
    await receiver.count(4);
    expect(receiver.received.map(({ body }) => body)).toEqual(
      ["online", "offline", "online", "offline"].map((word) => ({
        type: `device.${word}`,
        timestamp,
        data: { deviceId: id, status: word, lastSeen: timestamp },
      })),
    );
    for (const request of receiver.received) expect(verify(request, secret)).toEqual(request.body);
  });

  test("device.online and data.received of a device that announces itself and sends over MQTT", async () => {
    const receiver = await receiverOf();
    const { secret } = await addWebhook(receiver.url, ["device.online", "data.received"]);
    const announcement = {
      mac_address: "aabbccddeeff",
      device: { name: "Sensor" },
      sensors: [{ name: "Temperature" }],
    };
    await client.publishAsync("lambdaiot/discovery", JSON.stringify(announcement), { qos: 1 });
    const deviceId = "3814fb88-565c-5dc8-9b91-60d4002b6edc";
    const sensor = "2e4abd8d-5d31-56b9-9bd9-84d9d7d57947";
    closing.push(() => api("DELETE", `/v1/devices/${deviceId}`));
    const reading = { type: "sensor_reading", sensor_id: sensor, value: 22.5, value_at: "2026-01-14T10:00:00Z" };
    await client.publishAsync("lambdaiot", JSON.stringify(reading), { qos: 1 });
    await receiver.count(2);
    expect(receiver.bodies("device.online")).toMatchObject([{ data: { deviceId, status: "online" } }]);
    expect(receiver.bodies("data.received")).toEqual([
      {
        type: "data.received",
        timestamp,
        data: {
          readings: [
            { id: expect.any(Number) as number, deviceId, sensor, timestamp: "2026-01-14T10:00:00Z", value: 22.5 },
          ],
        },
      },
    ]);
    for (const request of receiver.received) expect(verify(request, secret)).toEqual(request.body);
  });

  test("alert.triggered and alert.resolved", async () => {
    const receiver = await receiverOf();
    const { secret } = await addWebhook(receiver.url, ["alert.triggered", "alert.resolved"]);
    const { id, sensor } = await addDevice("SC-ALERT-1");
    const rule = { deviceId: id, condition: "gt", threshold: 30, clear: 28, severity: "critical" };
    const { body: made } = await api("POST", "/v1/alerts/rules", rule);
    await point(id, 31.5);
    await receiver.count(1);
    await point(id, 29);
    await point(id, 27);
    await receiver.count(2);
    const [{ id: alertId }] = (await api("GET", "/v1/alerts")).body.alerts;
    const data = {
      alertId,
      ruleId: made.id,
      deviceId: id,
      sensor,
      condition: "gt",
      threshold: 30,
      severity: "critical",
    };
    expect(receiver.received.map(({ body }) => body)).toEqual([
      { type: "alert.triggered", timestamp, data: { ...data, value: 31.5, triggeredAt: timestamp } },
      {
        type: "alert.resolved",
        timestamp,
        data: { ...data, value: 31.5, triggeredAt: timestamp, resolvedAt: timestamp },
      },
    ]);
    for (const request of receiver.received) expect(verify(request, secret)).toEqual(request.body);
  });

  test("and only to the webhooks that asked for it", async () => {
    const [online, offline] = [await receiverOf(), await receiverOf()];
    await addWebhook(online.url, ["device.online", "device.online"]);
    await addWebhook(offline.url, ["device.offline"]);
    const { id } = await addDevice("SC-STATUS-2");
    await point(id, 20);
    await api("PUT", `/v1/devices/${id}`, { status: "offline" });
    await Promise.all([online.count(1), offline.count(1)]);
    expect(online.received.map(({ body }) => body.type)).toEqual(["device.online"]);
    expect(offline.received.map(({ body }) => body.type)).toEqual(["device.offline"]);
  });
});

describe("a request", () => {
  test("is a POST of JSON with the three headers of Standard Webhooks", async () => {
    const receiver = await receiverOf();
    const { id } = await addWebhook(`${receiver.url}?key=a%20b`, ["device.online"]);
    const { body: queued } = await api("POST", `/v1/webhooks/${id}/test`);
    const [request] = await receiver.count(1);
    expect(request).toMatchObject({
      method: "POST",
      path: "/hook?key=a%20b",
      headers: {
        "content-type": "application/json",
        "content-length": String(Buffer.byteLength(request?.text ?? "")),
        "webhook-id": queued.id,
        "webhook-timestamp": expect.stringMatching(/^\d{10}$/) as string,
        "webhook-signature": expect.stringMatching(/^v1,[A-Za-z0-9+/]{43}=$/) as string,
      },
    });
    expect(queued.id).not.toContain(".");
  });
});

describe("a secret", () => {
  const base64 = Buffer.from("a key of at least 24 bytes, say").toString("base64");
  test.each([
    [
      "of whsec_ and base64 signs with the bytes that the base64 stands for",
      `whsec_${base64}`,
      Buffer.from(base64, "base64"),
    ],
    ["of any other form signs with its own bytes", "geheim: schlüssel №1", Buffer.from("geheim: schlüssel №1")],
    ["that looks like base64, without whsec_, signs with its own bytes", base64, Buffer.from(base64)],
  ])("%s", async (_name, secret, key) => {
    const receiver = await receiverOf();
    const webhook = await addWebhook(receiver.url, ["device.online"], secret);
    expect(webhook.secret).toBe(secret);
    await api("POST", `/v1/webhooks/${webhook.id}/test`);
    const [request] = await receiver.count(1);
    const { "webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature } = request?.headers ?? {};
    const expected = createHmac("sha256", key).update(`${id}.${at}.${request?.text}`).digest("base64");
    expect(signature).toBe(`v1,${expected}`);
    expect(request && verify(request, secret)).toEqual(request?.body);
  });

  test("is made where none is given, 32 bytes of chance, and another one each time", async () => {
    const receiver = await receiverOf();
    const [one, two] = [
      await addWebhook(receiver.url, ["device.online"]),
      await addWebhook(receiver.url, ["device.online"]),
    ];
    for (const { secret } of [one, two]) {
      expect(secret).toMatch(/^whsec_/);
      expect(Buffer.from(secret.slice("whsec_".length), "base64")).toHaveLength(32);
    }
    expect(one.secret).not.toBe(two.secret);
    await api("POST", `/v1/webhooks/${two.id}/test`);
    const [request] = await receiver.count(1);
    expect(request && verify(request, two.secret)).toEqual(request?.body);
    expect(() => request && verify(request, one.secret)).toThrow("No matching signature found");
    expect(() => request && verify({ ...request, text: `${request.text} ` }, two.secret)).toThrow("No matching");
  });

  test("is shown when the webhook is made and never again", async () => {
    const { id, secret } = await addWebhook("http://127.0.0.1:9/", ["device.online"], "a secret of my own");
    const test_ = await api("POST", `/v1/webhooks/${id}/test`);
    const answers = [test_, await api("GET", "/v1/webhooks"), await api("GET", `/v1/webhooks/${id}/deliveries`)];
    for (const { status: code, body } of answers) {
      expect(code).toBeLessThan(300);
      expect(JSON.stringify(body)).not.toContain(secret);
      expect(JSON.stringify(body)).not.toContain('"secret"');
    }
    expect(gateway.log()).not.toContain(secret);
  });

  test.each([
    ["", "secret must not be empty"],
    ["whsec_", "secret must be base64 after whsec_"],
    ["whsec_not base64", "secret must be base64 after whsec_"],
    ["whsec_abc", "secret must be base64 after whsec_"],
    ["x".repeat(513), "secret must not be longer than 512 characters"],
    [7, "secret must be a string"],
  ])("is refused where it is no good: %s", async (secret, message) => {
    const { status: code, body } = await api("POST", "/v1/webhooks", {
      url: "http://127.0.0.1:9/",
      events: ["device.online"],
      secret,
    });
    expect({ code, message: body.error.message }).toEqual({ code: 400, message });
  });
});

describe("a webhook", () => {
  test("is listed with its events, oldest first, and is gone when it is deleted", async () => {
    const one = await addWebhook("http://127.0.0.1:9/a", [...webhookEvents]);
    const two = await addWebhook("http://127.0.0.1:9/b", ["device.online"]);
    const entry = {
      enabled: true,
      dropped: 0,
      createdAt: expect.stringMatching(/Z$/) as string,
    };
    expect((await api("GET", "/v1/webhooks")).body).toEqual({
      webhooks: [
        { id: one.id, url: "http://127.0.0.1:9/a", events: [...webhookEvents], ...entry },
        { id: two.id, url: "http://127.0.0.1:9/b", events: ["device.online"], ...entry },
      ],
    });
    expect(await api("DELETE", `/v1/webhooks/${one.id}`)).toMatchObject({ status: 200, body: { success: true } });
    expect((await api("GET", "/v1/webhooks")).body.webhooks).toMatchObject([{ id: two.id }]);
    for (const [method, path] of [
      ["DELETE", `/v1/webhooks/${one.id}`],
      ["GET", `/v1/webhooks/${one.id}/deliveries`],
      ["POST", `/v1/webhooks/${one.id}/test`],
    ] as const)
      expect(await api(method, path)).toMatchObject({ status: 404, body: { error: { code: "NOT_FOUND" } } });
  });

  test.each([
    [{ events: ["device.online"] }, "url is required"],
    [{ url: "http://127.0.0.1:9/" }, "events is required"],
    [{ url: "http://127.0.0.1:9/", events: [] }, "events must name one event or more"],
    [{ url: "http://127.0.0.1:9/", events: "device.online" }, "events must be a list of events"],
    [{ url: "http://127.0.0.1:9/", events: ["device.lost"] }, `events.0 must be one of ${webhookEvents.join(", ")}`],
    [{ url: 7, events: ["device.online"] }, "url must be a string"],
  ])("needs a URL and events: %j", async (input, message) => {
    const { status: code, body } = await api("POST", "/v1/webhooks", input);
    expect({ code, message: body.error.message }).toEqual({ code: 400, message });
  });

  test("is a matter of administrators alone", async () => {
    const { id } = await addWebhook("http://127.0.0.1:9/", ["device.online"]);
    const member = await logIn(gateway.url, "member");
    const nobody = createApi(gateway.url);
    for (const [method, path, body] of [
      ["POST", "/v1/webhooks", { url: "http://127.0.0.1:9/", events: ["device.online"] }],
      ["GET", "/v1/webhooks", undefined],
      ["DELETE", `/v1/webhooks/${id}`, undefined],
      ["GET", `/v1/webhooks/${id}/deliveries`, undefined],
      ["POST", `/v1/webhooks/${id}/test`, undefined],
    ] as const) {
      expect(await member(method, path, body)).toMatchObject({ status: 403, body: { error: { code: "FORBIDDEN" } } });
      expect(await nobody(method, path, body)).toMatchObject({
        status: 401,
        body: { error: { code: "INVALID_TOKEN" } },
      });
    }
    expect((await api("GET", "/v1/webhooks")).body.webhooks).toMatchObject([{ id }]);
  });

  test("is one of so many that the configuration allows", async () => {
    for (let n = 0; n < 12; n++) await addWebhook("http://127.0.0.1:9/", ["device.online"]);
    const { status: code, body } = await api("POST", "/v1/webhooks", {
      url: "http://127.0.0.1:9/",
      events: ["device.online"],
    });
    expect({ code, error: body.error.code }).toEqual({ code: 409, error: "CONFLICT" });
  });
});

describe("a test call", () => {
  test("says that it is one, and what came of it is in the deliveries, newest first", async () => {
    const receiver = await receiverOf((request, response, n) => status(n === 1 ? 500 : 200)(request, response, n));
    const { id, secret } = await addWebhook(receiver.url, ["alert.triggered", "device.online"]);
    const { status: code, body: first } = await api("POST", `/v1/webhooks/${id}/test`);
    expect({ code, ...first }).toMatchObject({ code: 202, event: "alert.triggered", status: "pending", attempts: 0 });
    await receiver.count(1);
    const { body: second } = await api("POST", `/v1/webhooks/${id}/test`);
    const [request] = await receiver.count(2);
    expect(request && verify(request, secret)).toMatchObject({
      type: "alert.triggered",
      data: { test: true, webhookId: id },
    });
    const page = await until(async () => {
      const { body } = await api("GET", `/v1/webhooks/${id}/deliveries`);
      return body.deliveries.every(({ attempts }: { attempts: number }) => attempts === 1) && body;
    });
    const instant = expect.stringMatching(/Z$/) as string;
    expect(page).toEqual({
      deliveries: [
        {
          ...second,
          status: "delivered",
          attempts: 1,
          lastAttemptAt: instant,
          nextAttemptAt: null,
          responseStatus: 200,
        },
        {
          ...first,
          attempts: 1,
          lastAttemptAt: instant,
          nextAttemptAt: instant,
          responseStatus: 500,
          error: "HTTP 500",
        },
      ],
      total: 2,
      limit: 50,
      offset: 0,
    });
    expect((await api("GET", `/v1/webhooks/${id}/deliveries?limit=1&offset=1`)).body).toMatchObject({
      deliveries: [{ id: first.id }],
      total: 2,
      limit: 1,
      offset: 1,
    });
  });

  test("is refused where a 410 has disabled the webhook, which the list shows", async () => {
    const receiver = await receiverOf(status(410));
    const { id } = await addWebhook(receiver.url, ["device.online"]);
    await api("POST", `/v1/webhooks/${id}/test`);
    await until(async () => (await api("GET", "/v1/webhooks")).body.webhooks[0].enabled === false);
    expect(await api("POST", `/v1/webhooks/${id}/test`)).toMatchObject({
      status: 409,
      body: { error: { code: "CONFLICT" } },
    });
  });
});

describe("readings", () => {
  test("are acknowledged while receivers are down, silent, failing and flooding, and their queues stay bounded", async () => {
    const receivers = {
      silent: await receiverOf(silence),
      failing: await receiverOf(status(500)),
      flooding: await receiverOf((_request, response) => {
        response.on("error", () => undefined);
        response.end(Buffer.alloc(5_000_000));
      }),
      fine: await receiverOf(),
    };
    const { id, sensor } = await addDevice("SC-INGEST-1");
    for (const { url } of Object.values(receivers))
      await addWebhook(url, ["data.received", "device.online", "device.offline"]);
    const down = await addWebhook(`http://127.0.0.1:${await findClosedPort()}/`, ["device.online", "device.offline"]);
    const readings = 300;
    for (let n = 0; n < readings; n++) {
      const reading = {
        type: "sensor_reading",
        sensor_id: sensor,
        value: n,
        value_at: new Date(n * 1_000).toISOString(),
      };
      await client.publishAsync("lambdaiot", JSON.stringify(reading), { qos: 1 });
      // Events besides the readings: on and off.
      if (n % 10 === 0) await api("PUT", `/v1/devices/${id}`, { status: n % 20 === 0 ? "offline" : "online" });
    }
    expect((await api("GET", `/v1/data/${id}`)).body.total).toBe(readings);
    // The silent one holds its first request to this moment.
    expect(receivers.silent.received).toHaveLength(1);
    const told = () =>
      receivers.fine
        .bodies("data.received")
        .flatMap(({ data }) => data.readings.map(({ value }: { value: number }) => value));
    await until(() => told().length >= readings);
    expect(told()).toEqual(Array.from({ length: readings }, (_, n) => n));
    // The queue is cut back once a second.
    const { body, pending } = await until(async () => {
      const { body: log } = await api("GET", `/v1/webhooks/${down.id}/deliveries`);
      const waiting = log.deliveries.filter(({ status: state }: { status: string }) => state === "pending");
      return waiting.length <= 10 && { body: log, pending: waiting };
    });
    const { dropped } = (await api("GET", "/v1/webhooks")).body.webhooks.find((hook: Hook) => hook.id === down.id);
    expect(dropped).toBe(body.total - pending.length);
    expect(dropped).toBeGreaterThan(0);
  });
});

describe("data.received, by a clock that stands", () => {
  let outbox: Outbox;
  let sensor: { id: string; deviceId: string };
  afterEach(() => outbox.close());

  async function open(answer = status(204)): Promise<Receiver> {
    const receiver = await receiverOf(answer);
    outbox = openOutbox();
    sensor = await outbox.commit((ctx) => addComponent(ctx, "sensor"));
    await outbox.addWebhook(receiver.url, ["data.received"]);
    return receiver;
  }

  let next = 0;
  const store = (n: number) =>
    outbox.commit((ctx) => {
      for (let i = 0; i < n; i++)
        recordReading(ctx, { sensorId: sensor.id, value: next, valueAt: next++ }, { isOwn: true });
    });
  const told = ({ received }: Receiver): number[][] =>
    received.map(({ body }) => body.data.readings.map(({ value }: { value: number }) => value));
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

  test("is one request a second, with all that has come since the last one", async () => {
    const receiver = await open();
    const first = next;
    await store(1);
    await receiver.count(1);
    for (let i = 0; i < 5; i++) await store(20);
    outbox.clock.at += 999;
    await outbox.looks();
    expect(receiver.received).toHaveLength(1);
    outbox.clock.at += 1;
    await receiver.count(2);
    await store(7);
    await outbox.looks();
    outbox.clock.at += 1_000;
    await receiver.count(3);
    outbox.clock.at += 60_000;
    await outbox.looks();
    expect(told(receiver)).toEqual([[first], range(first + 1, first + 101), range(first + 101, first + 108)]);
  });

  test("carries a thousand readings at the most, and the rest a second later", async () => {
    const receiver = await open();
    const first = next;
    await store(2_500);
    for (const n of [1, 2, 3]) {
      await receiver.count(n);
      await outbox.looks();
      expect(receiver.received).toHaveLength(n);
      outbox.clock.at += 1_000;
    }
    expect(told(receiver).map(({ length }) => length)).toEqual([1_000, 1_000, 500]);
    expect(told(receiver).flat()).toEqual(range(first, first + 2_500));
  });

  test("gathers what a slow receiver has no time for, and does not queue it up", async () => {
    let release: (() => void) | undefined;
    const receiver = await open((_request, response) => {
      release = () => response.writeHead(204).end();
    });
    const first = next;
    await store(1);
    await receiver.count(1);
    for (let second = 0; second < 30; second++) {
      outbox.clock.at += 1_000;
      await store(2);
      if (second % 10 === 9) await outbox.looks();
    }
    receiver.answer = status(204);
    release?.();
    await receiver.count(2);
    outbox.clock.at += 1_000;
    await outbox.looks();
    expect(told(receiver)).toEqual([[first], range(first + 1, first + 61)]);
  });

  test("tells nothing of what came before the webhook, nor of sensors that are gone", async () => {
    const receiver = await open();
    await receiver.close();
    closing.pop();
    const before = await receiverOf();
    await store(3);
    await outbox.addWebhook(before.url, ["data.received"]);
    const first = next;
    await store(2);
    await before.count(1);
    expect(told(before)).toEqual([range(first, first + 2)]);
    outbox.store.db.$client.exec("DELETE FROM sensors");
    await outbox.commit(({ readings }) => readings.append(1, 1, 1));
    outbox.clock.at += 1_000;
    await outbox.looks();
    expect(before.received).toHaveLength(1);
  });
});

describe("aggregation.completed", () => {
  test("comes when an hour or a day is over and summed up, once, and not for those without readings", async () => {
    const receiver = await receiverOf();
    const outbox = openOutbox();
    closing.push(() => outbox.close());
    await outbox.addWebhook(receiver.url, ["aggregation.completed"]);
    outbox.clock.at = Date.UTC(2026, 0, 14, 22, 30);
    const [one, two] = await outbox.commit((ctx) => [addComponent(ctx, "sensor"), addComponent(ctx, "sensor")]);
    const store = (sensorId: string, value: number) =>
      outbox.commit((ctx) => recordReading(ctx, { sensorId, value }, { isOwn: true }));
    await outbox.commit(completePeriods); // from now on
    const rollup = startRollup({ domain: outbox.domain, bus: outbox.bus, log: outbox.log, everyMs: 10 });
    closing.push(() => rollup.stop());
    await store(one.id, 1);
    await store(one.id, 2);
    await store(two.id, 3);
    outbox.clock.at = Date.UTC(2026, 0, 14, 23);
    await receiver.count(1);
    outbox.clock.at = Date.UTC(2026, 0, 15, 0, 30);
    await receiver.count(2);
    await store(one.id, 4);
    outbox.clock.at = Date.UTC(2026, 0, 15, 1);
    await receiver.count(3);
    await outbox.commit((ctx) => rollUpStep(ctx, 1));
    await outbox.looks();
    expect(receiver.received.map(({ body }) => ({ type: body.type, ...body.data }))).toEqual([
      {
        type: "aggregation.completed",
        period: "hour",
        start: "2026-01-14T22:00:00Z",
        end: "2026-01-14T23:00:00Z",
        sensors: 2,
        readings: 3,
      },
      {
        type: "aggregation.completed",
        period: "day",
        start: "2026-01-14T00:00:00Z",
        end: "2026-01-15T00:00:00Z",
        sensors: 2,
        readings: 3,
      },
      {
        type: "aggregation.completed",
        period: "hour",
        start: "2026-01-15T00:00:00Z",
        end: "2026-01-15T01:00:00Z",
        sensors: 1,
        readings: 1,
      },
    ]);
  });
});
