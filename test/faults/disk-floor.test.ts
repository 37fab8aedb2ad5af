import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, rmSync, statfsSync, statSync, writeFileSync } from "node:fs";
import { get, type IncomingMessage } from "node:http";
import { join } from "node:path";
import mqtt from "mqtt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readStore } from "../hostile/good-device.ts";
import { openClient, publishFrame } from "../mqtt/gate-wire.ts";
import { connectMqtt, logIn, openInbox, until, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// A disk of its own of which somebody else's file leaves less than `database.min_free`: nothing has failed yet, and no
// reading is stored any more. The tests run in order.

const { folder, remove } = makeFolder();
const disk = join(folder, "disk");
const ballast = join(disk, "ballast");
const megabyte = 1024 * 1024;

mkdirSync(disk);
const canMount = spawnSync("mount", ["-t", "tmpfs", "-o", "size=48m", "tmpfs", disk]).status === 0;
const skipped = canMount ? "" : " (skipped: mounting a small disk is not allowed here)";

let gateway: BuiltGateway;
let api: Api;
let sensorId = "";
/** What clients have been told is stored. */
const acknowledged: number[] = [];
/** Alerts that a listener of /v1/live was told of. */
const heard: { event: string; data: Record<string, unknown> }[] = [];

const env = {
  TMPDIR: folder,
  LAMBDAIOT_DATABASE_PATH: join(disk, "lambdaiot.db"),
  LAMBDAIOT_DATABASE_MAX_WAL: "4",
  LAMBDAIOT_DATABASE_MIN_FREE: "8",
  LAMBDAIOT_SERVER_RATE_LIMIT_BURST: "100000",
};

beforeAll(async () => {
  if (!canMount) return;
  gateway = await startBuiltGateway({ folder, env });
  api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "full", name: "full", type: "temperature" });
  [sensorId] = ((await api("GET", "/sensors")).body as { id: string }[]).map(({ id }) => id) as [string];
  await listen();
});
afterAll(async () => {
  if (canMount) {
    await gateway.stop("SIGKILL");
    spawnSync("umount", [disk]);
  }
  remove();
});

async function listen(): Promise<void> {
  const request = get(`${gateway.url}/v1/live`, { headers: { Authorization: `Bearer ${api.token}` } });
  const [response] = (await once(request, "response")) as [IncomingMessage];
  response.on("error", () => undefined); // the gateway ends
  let text = "";
  response.setEncoding("utf8").on("data", (chunk: string) => {
    const events = (text + chunk).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      const [, name = "", data = ""] = /^event: (alert\S+)\ndata: (.*)$/.exec(event) ?? [];
      if (name !== "") heard.push({ event: name, data: JSON.parse(data) as Record<string, unknown> });
    }
  });
}

const freeBytes = (): number => {
  const { bavail, bsize } = statfsSync(disk);
  return bavail * bsize;
};
const leaveFree = (bytes: number): void => writeFileSync(ballast, Buffer.alloc(Math.max(0, freeBytes() - bytes)));

const valueAt = "2026-01-14T10:00:00Z";
const reading = (value: number, more: object = {}): string =>
  JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value, ...more });

/** Publishes over a connection of its own. @returns whether it was acknowledged; where not, it was closed */
async function publish(value: number, more: object = {}): Promise<boolean> {
  const wire = await openClient(gateway.mqttUrl);
  wire.send(publishFrame("lambdaiot", reading(value, more), 1, 7));
  const isAcknowledged = await wire.next(0x40).then(
    () => true,
    () => false,
  );
  if (isAcknowledged && !acknowledged.includes(value)) acknowledged.push(value);
  await wire.end();
  return isAcknowledged;
}

async function post(value: number) {
  const answer = await api("POST", "/sensor-readings", { sensor_id: sensorId, value });
  if (answer.status === 201) acknowledged.push(value);
  return answer;
}

const isStoring = async (): Promise<boolean> =>
  (await api("GET", "/v1/health/database")).body.details.storing as boolean;

const metric = async (name: string): Promise<number> =>
  Number(new RegExp(`^lambdaiot_${name} (.*)$`, "m").exec((await api("GET", "/metrics")).body as string)?.[1]);

test.skipIf(!canMount)(`with room, all is well${skipped}`, async () => {
  expect(await publish(1)).toBe(true);
  expect(await publish(2, { value_at: valueAt })).toBe(true);
  expect(await post(3)).toMatchObject({ status: 201 });
  expect(await isStoring()).toBe(true);
});

test.skipIf(!canMount)(`below the floor readings are refused, with the disk not yet full${skipped}`, async () => {
  leaveFree(6 * megabyte);
  await until(async () => !(await isStoring()));
  for (const value of [101, 102]) expect(await publish(value)).toBe(false);
  const root = await post(103);
  expect(root).toMatchObject({ status: 503, body: { error: expect.stringContaining("disk") as string } });
  const v1 = await api("POST", "/v1/data/full", { value: 104, timestamp: valueAt });
  expect(v1).toMatchObject({ status: 503, body: { error: { code: "UNAVAILABLE", details: {} } } });
  for (const { headers } of [root, v1]) expect(Number(headers.get("Retry-After"))).toBeGreaterThan(0);
  expect(await metric("readings_refused_total")).toBe(4);
  expect(await metric("store_floors_total")).toBe(1);
  expect(await metric("store_storing")).toBe(0);
  expect(await metric("store_commits_failed_total")).toBe(0);
  // What is stored already may be sent again.
  expect(await publish(2, { value_at: valueAt })).toBe(true);
});

test.skipIf(!canMount)(`and it is told: health, one line in the log, an alert${skipped}`, async () => {
  expect(await api("GET", "/health")).toMatchObject({ status: 503, body: { status: "error" } });
  expect((await api("GET", "/v1/health")).body).toMatchObject({
    status: "degraded",
    metrics: { database: { status: "unhealthy" }, mqtt: { status: "healthy" }, dataProcessor: { score: 0 } },
  });
  expect(gateway.log().match(/the disk is nearly full/g)).toHaveLength(1);
  await until(() => heard.length > 0);
  expect(heard).toEqual([
    {
      event: "alert.triggered",
      data: expect.objectContaining({
        condition: "disk_full",
        severity: "critical",
        deviceId: null,
        threshold: 8 * megabyte,
      }) as unknown,
    },
  ]);
});

test.skipIf(!canMount)(`messages go between clients as before, also to one that is away${skipped}`, async () => {
  const session = { clientId: "sleeper", clean: false } as const;
  const sleeper = await connectMqtt(gateway.mqttUrl, session);
  await sleeper.subscribeAsync("free/#", { qos: 1 });
  await sleeper.endAsync();
  const listener = await connectMqtt(gateway.mqttUrl);
  const inbox = await openInbox(listener, "free/#");
  const publisher = await connectMqtt(gateway.mqttUrl);
  for (const qos of [0, 1, 2] as const) await publisher.publishAsync("free/x", JSON.stringify({ qos }), { qos });
  await inbox.next(({ qos }) => qos === 2);
  expect(inbox.messages.map(({ body: { qos } }) => qos)).toEqual([0, 1, 2]);
  await Promise.all([listener, publisher].map((client) => client.endAsync()));
});

test.skipIf(!canMount)(`a restart does not change that${skipped}`, async () => {
  expect(await gateway.stop()).toBe(0);
  gateway = await startBuiltGateway({ folder, env });
  api = await logIn(gateway.url);
  await listen();
  // From the first moment on.
  expect(await isStoring()).toBe(false);
  expect(await publish(101)).toBe(false);
});

test.skipIf(!canMount)(`what waits for who was away is there, also after that${skipped}`, async () => {
  const sleeper = mqtt.connect(gateway.mqttUrl, { clientId: "sleeper", clean: false, reconnectPeriod: 0 });
  const missed: number[] = [];
  sleeper.on("message", (_, payload) => void missed.push((JSON.parse(payload.toString()) as { qos: number }).qos));
  await until(() => missed.length === 2);
  expect(missed).toEqual([1, 2]);
  await sleeper.endAsync();
});

test.skipIf(!canMount)(`with room again it goes on by itself${skipped}`, async () => {
  rmSync(ballast);
  await until(isStoring);
  for (const value of [101, 102]) expect(await publish(value)).toBe(true);
  expect(await post(103)).toMatchObject({ status: 201 });
  expect(await api("GET", "/health")).toMatchObject({ status: 200 });
  await until(() => heard.length > 1);
  const [triggered, resolved] = heard;
  // The one that was raised before the restart; it was not raised again.
  expect(heard).toHaveLength(2);
  expect(resolved?.event).toBe("alert.resolved");
  expect(resolved?.data["alertId"]).toBe(triggered?.data["alertId"]);
  const { values, integrity } = readStore(gateway.storePath);
  expect({ values, integrity }).toEqual({ values: acknowledged, integrity: "ok" });
});

test.skipIf(!canMount)(
  `below the floor what is too old still goes, and the room that it makes is room again${skipped}`,
  async () => {
    const monthAgo = Date.now() - 30 * 24 * 60 * 60 * 1_000;
    for (let sent = 0; sent < 400_000; sent += 1_000) {
      const points = Array.from({ length: 1_000 }, (_, i) => ({
        timestamp: new Date(monthAgo + Math.floor((sent + i + Math.random()) * 1_000)).toISOString(),
        value: Math.random(),
      }));
      expect(await api("POST", "/v1/data/full", points)).toMatchObject({ status: 201 });
    }
    const count = async () => (await api("GET", "/v1/data/full?aggregation=count")).body.data[0].value as number;
    const counted = await count();
    // Even without its log the store leaves less than the floor.
    leaveFree(3.5 * megabyte);
    await until(async () => !(await isStoring()));
    const onDisk = (): number => statSync(gateway.storePath).size + statSync(`${gateway.storePath}-wal`).size;
    const before = { used: await metric("store_used_bytes"), onDisk: onDisk() };
    expect(await api("PUT", `/sensors/${sensorId}`, { retention_days: 1 })).toMatchObject({ status: 200 });
    await until(isStoring, 60_000);
    expect(await metric("store_used_bytes")).toBeLessThan(before.used - 3 * megabyte);
    expect(await metric("retention_given_back_bytes_total")).toBeGreaterThan(2 * megabyte);
    expect(onDisk()).toBeLessThan(before.onDisk - 2 * megabyte);
    expect(await count()).toBe(counted);
    expect(await publish(201)).toBe(true);
    expect(readStore(gateway.storePath).integrity).toBe("ok");
    expect(await gateway.stop()).toBe(0);
  },
  120_000,
);
