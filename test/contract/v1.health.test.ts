import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connectMqtt, createApi, logIn, type Answer, type Api } from "../support/client.ts";
import { startLocalGateway, type LocalGateway } from "../support/gateway.ts";

// GET /v1/health, /v1/health/database, /v1/health/mqtt.

let gateway: LocalGateway;
let api: Api;
beforeAll(async () => {
  gateway = await startLocalGateway();
  api = await logIn(gateway.url);
});
afterAll(() => gateway.close());

const shown = ({ status, body }: Answer) => ({ status, body });
const parts = ["database", "mqtt", "deviceManager", "dataProcessor"] as const;
const weights = { database: 0.35, mqtt: 0.25, deviceManager: 0.15, dataProcessor: 0.25 };
const wordOf = (score: number): string => (score >= 70 ? "healthy" : score >= 30 ? "degraded" : "unhealthy");

test("the overall health has the shape of the document's sample: words, scores, and four parts", async () => {
  const { status, body } = await api("GET", "/v1/health");
  expect(status).toBe(body.status === "unhealthy" ? 503 : 200);
  const metric = { status: expect.toBeOneOf(["healthy", "degraded", "unhealthy"]), score: expect.any(Number) };
  expect(body).toEqual({
    ...metric,
    metrics: { database: metric, mqtt: metric, deviceManager: metric, dataProcessor: metric },
  });
  for (const { status: word, score } of [body, ...parts.map((part) => body.metrics[part])]) {
    expect(score).toSatisfy((n: number) => Number.isInteger(n) && n >= 0 && n <= 100);
    expect(word).toBe(wordOf(score));
  }
  expect(body.score).toBe(Math.round(parts.reduce((sum, part) => sum + weights[part] * body.metrics[part].score, 0)));
});

test("a new gateway that has nothing to do is healthy", async () => {
  const { status, body } = await api("GET", "/v1/health");
  expect({ status, word: body.status }).toEqual({ status: 200, word: "healthy" });
  expect(body.metrics.deviceManager).toEqual({ status: "healthy", score: 100 });
});

test.each([
  [
    "database",
    {
      answers: true,
      synced: true,
      storing: true,
      commitMs: expect.any(Number),
      freeBytes: expect.any(Number),
      walBytes: expect.any(Number),
    },
  ],
  ["mqtt", { listening: true, dropped: 0, loopLagMs: expect.any(Number) }],
])("/v1/health/%s tells what its score is made from", async (part, details) => {
  const { status, body } = await api("GET", `/v1/health/${part}`);
  expect({ status, body }).toEqual({
    status: 200,
    body: { status: wordOf(body.score), score: expect.any(Number), details },
  });
});

test("all of them need a token", async () => {
  for (const path of ["/v1/health", "/v1/health/database", "/v1/health/mqtt"])
    expect(shown(await createApi(gateway.url)("GET", path))).toMatchObject({
      status: 401,
      body: { error: { code: "INVALID_TOKEN" } },
    });
});

describe("the devices' part", () => {
  test("is the share of the devices that are neither lost nor disabled", async () => {
    const device = { name: "n", description: "", location: "" };
    const create = async (status_id: number): Promise<string> =>
      (await api("POST", "/devices", { ...device, status_id })).body.id;
    const part = async () => (await api("GET", "/v1/health")).body.metrics.deviceManager;
    const ids = [await create(1), await create(1), await create(2), await create(4)];
    expect(await part()).toEqual({ status: "healthy", score: 100 });
    ids.push(await create(3));
    expect(await part()).toEqual({ status: "healthy", score: 75 });
    await api("PUT", `/devices/${ids[0]}`, { status_id: 3 });
    expect(await part()).toEqual({ status: "degraded", score: 50 });
    for (const id of ids.slice(1, 3)) await api("PUT", `/devices/${id}`, { status_id: 3 });
    expect(await part()).toEqual({ status: "unhealthy", score: 0 });
    // One part is not the whole: what it weighs is 15 %.
    const { status, body } = await api("GET", "/v1/health");
    expect([status, body.status]).toEqual([200, wordOf(body.score)]);
    for (const id of ids) await api("DELETE", `/devices/${id}`);
    expect(await part()).toEqual({ status: "healthy", score: 100 });
  });
});

test("connections that are turned away cost the broker's part its points", async () => {
  const full = await startLocalGateway({ env: { LAMBDAIOT_MQTT_MAX_CONNECTIONS: "1" } });
  try {
    const reader = await logIn(full.url);
    const before = (await reader("GET", "/v1/health/mqtt")).body;
    const first = await connectMqtt(full.mqttUrl);
    for (let i = 0; i < 50; i++) await connectMqtt(full.mqttUrl).catch(() => undefined);
    await first.endAsync();
    const { body } = await reader("GET", "/v1/health/mqtt");
    expect(body.details.dropped - before.details.dropped).toBe(50);
    expect(body.score).toBeLessThanOrEqual(70);
  } finally {
    await full.close();
  }
});
