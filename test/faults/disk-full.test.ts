import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openClient, publishFrame } from "../mqtt/gate-wire.ts";
import { readStore } from "../hostile/good-device.ts";
import { connectMqtt, logIn, until, type Api } from "../support/client.ts";
import { makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";

// A disk of its own that is filled up by somebody else's file. The tests run in order.

const { folder, remove } = makeFolder();
const disk = join(folder, "disk");
const ballast = join(disk, "ballast");

mkdirSync(disk);
const canMount = spawnSync("mount", ["-t", "tmpfs", "-o", "size=16m", "tmpfs", disk]).status === 0;
const skipped = canMount ? "" : " (skipped: mounting a small disk is not allowed here)";

let gateway: BuiltGateway;
let api: Api;
let sensorId = "";
/** What clients have been told is stored. */
const acknowledged: number[] = [];

beforeAll(async () => {
  if (!canMount) return;
  // Without a floor: what there is when it was too high for the store after all.
  const env = {
    TMPDIR: folder,
    LAMBDAIOT_DATABASE_PATH: join(disk, "lambdaiot.db"),
    LAMBDAIOT_DATABASE_MIN_FREE: "0",
  };
  gateway = await startBuiltGateway({ folder, env });
  api = await logIn(gateway.url);
  await api("POST", "/v1/devices", { id: "full", name: "full", type: "temperature" });
  [sensorId] = ((await api("GET", "/sensors")).body as { id: string }[]).map(({ id }) => id) as [string];
});
afterAll(async () => {
  if (canMount) {
    await gateway.stop("SIGKILL");
    spawnSync("umount", [disk]);
  }
  remove();
});

function fillDisk(): void {
  for (const bytes of [65_536, 4_096]) {
    try {
      for (;;) appendFileSync(ballast, Buffer.alloc(bytes));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    }
  }
}

const reading = (value: number): string => JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value });

/** Publishes over a connection of its own. @returns whether it was acknowledged; where not, it was closed */
async function publish(value: number): Promise<boolean> {
  const wire = await openClient(gateway.mqttUrl);
  wire.send(publishFrame("lambdaiot", reading(value), 1, 7));
  const isAcknowledged = await wire.next(0x40).then(
    () => true,
    () => false,
  );
  if (isAcknowledged) acknowledged.push(value);
  await wire.end();
  return isAcknowledged;
}

async function post(value: number): Promise<unknown> {
  const { status, body } = await api("POST", "/sensor-readings", { sensor_id: sensorId, value });
  if (status === 201) acknowledged.push(value);
  return { status, body };
}

test.skipIf(!canMount)(`with room, all is well${skipped}`, async () => {
  expect(await publish(1)).toBe(true);
  expect(await post(2)).toMatchObject({ status: 201 });
  expect((await api("GET", "/health")).body).toEqual({ status: "ok" });
});

test.skipIf(!canMount)(
  `without, nothing is acknowledged, callers are told to come back, and what only reads goes on${skipped}`,
  async () => {
    const listener = await connectMqtt(gateway.mqttUrl);
    fillDisk();
    // What the log has left of its last page may hold a little.
    await until(async () => !(await publish(3 + acknowledged.length)));
    for (const value of [101, 102, 103]) expect(await publish(value)).toBe(false);
    expect(await post(104)).toEqual({ status: 503, body: { error: expect.any(String) as string } });
    expect(await api("POST", "/v1/data/full", { value: 105, timestamp: "2026-01-14T10:00:00Z" })).toMatchObject({
      status: 503,
      body: { error: { code: expect.any(String) as string, message: expect.any(String) as string } },
    });
    expect(await api("GET", "/health")).toMatchObject({ status: 503, body: { status: "error" } });
    const { body: health } = await api("GET", "/v1/health");
    expect(health.status).not.toBe("healthy");
    expect(health.metrics.database).toEqual({ status: "unhealthy", score: 0 });
    // Who is here stays, and messages that are nobody's to keep reach others.
    const heard: string[] = [];
    listener.on("message", (_, payload) => void heard.push(payload.toString()));
    await listener.subscribeAsync("free", { qos: 0 });
    await listener.publishAsync("free", "still here", { qos: 1 });
    await until(() => heard.includes("still here"));
    await listener.endAsync();
    expect(await api("GET", `/sensor-readings?sensor_id=${sensorId}`)).toMatchObject({ status: 200 });
    expect(gateway.process.exitCode).toBe(null);
  },
);

test.skipIf(!canMount)(`what would make room by deleting is refused as well, and loses nothing${skipped}`, async () => {
  const { id } = (await api("GET", `/sensor-readings?sensor_id=${sensorId}`)).body[0] as { id: number };
  expect(await api("DELETE", `/sensor-readings/${id}`)).toMatchObject({ status: 503 });
  expect(await api("DELETE", `/sensors/${sensorId}`)).toMatchObject({ status: 503 });
  expect(await api("GET", `/sensor-readings/${id}`)).toMatchObject({ status: 200 });
});

test.skipIf(!canMount)(
  `with room again it goes on by itself, and has all that was acknowledged${skipped}`,
  async () => {
    rmSync(ballast);
    // The devices come back with what they kept.
    for (const value of [101, 102, 103]) expect(await publish(value)).toBe(true);
    expect(await post(104)).toMatchObject({ status: 201 });
    expect(await api("GET", "/health")).toMatchObject({ status: 200, body: { status: "ok" } });
    const { values, integrity } = readStore(gateway.storePath);
    expect({ values, integrity }).toEqual({ values: acknowledged, integrity: "ok" });
    const { body } = await api("GET", `/sensor-readings?sensor_id=${sensorId}`);
    expect(await api("DELETE", `/sensor-readings/${body[0].id}`)).toMatchObject({ status: 200 });
    expect(await gateway.stop()).toBe(0);
  },
);
