import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, statSync } from "node:fs";
import { connect, createServer, type AddressInfo } from "node:net";
import Sqlite from "better-sqlite3";
import { afterEach, expect, test } from "vitest";
import { makeCertificates } from "../../src/tls/init.ts";
import { connectMqtt, createApi, logIn, until, type Api } from "../support/client.ts";
import { bundle, makeFolder, startBuiltGateway, type BuiltGateway } from "../support/gateway.ts";
import { readReadings } from "../support/stored.ts";

// The gateway itself ends with 1 where closing takes more than 10 s: an exit code of 0 says that it was in time.

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

async function start(folder: string, command?: readonly string[]): Promise<BuiltGateway> {
  const gateway = await startBuiltGateway({ folder, ...(command && { command }) });
  cleanUps.push(() => gateway.stop("SIGKILL"));
  return gateway;
}

function newFolder(): string {
  const { folder, remove } = makeFolder();
  cleanUps.push(remove);
  return folder;
}

async function addSensor(api: Api): Promise<string> {
  const device = await api("POST", "/devices", { name: "d", description: "", location: "", status_id: 1 });
  const input = { device_id: device.body.id as string, name: "s", type: "t", data_type_id: 2 };
  return (await api("POST", "/sensors", input)).body.id as string;
}

const isGone = (error: unknown): boolean => error instanceof Error;

/** Publishes over one connection, 20 at a time, until it ends; collects the acknowledged values. */
async function publishUntilCut(url: string, sensorId: string, first: number, acknowledged: number[]): Promise<void> {
  const client = await connectMqtt(url);
  client.on("error", () => undefined);
  const cut = new Promise<void>((resolve) => void client.once("close", () => resolve()));
  const publish = async (value: number): Promise<void> => {
    const payload = JSON.stringify({ type: "sensor_reading", sensor_id: sensorId, value });
    await client.publishAsync("lambdaiot", payload, { qos: 1 }).then(() => acknowledged.push(value), isGone);
  };
  for (let value = first; client.connected; value += 20)
    await Promise.race([cut, Promise.all(Array.from({ length: 20 }, (_, i) => publish(value + i)))]);
  client.end(true);
}

/** Posts readings one after the other until nobody answers, or the answer is that the gateway stops. */
async function postUntilCut(api: Api, sensorId: string, first: number, created: Map<number, number>) {
  for (let value = first; ; value++) {
    const answer = await api("POST", "/sensor-readings", { sensor_id: sensorId, value }).catch(() => undefined);
    if (answer?.status !== 201) return answer?.status;
    created.set(answer.body.id as number, value);
  }
}

test("SIGTERM under load ends with 0, everything acknowledged stored and the log carried over", async () => {
  const folder = newFolder();
  const gateway = await start(folder);
  const api = await logIn(gateway.url);
  const sensorId = await addSensor(api);
  const acknowledged: number[] = [];
  const created = new Map<number, number>();
  const wsUrl = `${gateway.url.replace("http", "ws")}/mqtt`;
  const load = [gateway.mqttUrl, gateway.mqttUrl, gateway.mqttUrl, wsUrl].map((url, i) =>
    publishUntilCut(url, sensorId, (i + 1) * 1_000_000 + 0.5, acknowledged),
  );
  const users = [1, 2].map((i) => postUntilCut(api, sensorId, -i * 1_000_000 - 0.25, created));
  // Those who would keep it from ending: a silent subscriber over each transport, half a request, an idle connection.
  const silent = await Promise.all([gateway.mqttUrl, wsUrl].map((url) => connectMqtt(url)));
  const half = connect(Number(new URL(gateway.url).port), "127.0.0.1");
  half
    .on("error", () => undefined)
    .write(
      `POST /sensor-readings HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer ${api.token}\r\nContent-Length: 10\r\n\r\n{`,
    );
  cleanUps.push(
    () => half.destroy(),
    () => silent.forEach((client) => client.end(true)),
  );
  await until(() => acknowledged.length > 500 && created.size > 20);

  expect(await gateway.stop("SIGTERM")).toBe(0);
  await Promise.all(load);
  // Cut off, or told to come back later; never an error of another kind.
  expect([undefined, 503]).toEqual(expect.arrayContaining([...new Set(await Promise.all(users))]));

  const { storePath } = gateway;
  expect(existsSync(`${storePath}-wal`) ? statSync(`${storePath}-wal`).size : 0).toBe(0);
  const sqlite = new Sqlite(storePath, { readonly: true });
  const stored = new Map(readReadings(storePath).map(({ id, value }) => [id, value]));
  expect(sqlite.pragma("integrity_check", { simple: true })).toBe("ok");
  sqlite.close();
  const values = new Set(stored.values());
  expect(values.size).toBe(stored.size);
  expect(acknowledged.filter((value) => !values.has(value))).toEqual([]);
  expect([...created].filter(([id, value]) => stored.get(id) !== value)).toEqual([]);
  expect(gateway.log()).toContain("stopped");

  const again = await start(folder);
  const [id, value] = [...created].at(-1) ?? [];
  expect(await createApi(again.url, api.token)("GET", `/sensor-readings/${id}`)).toMatchObject({
    status: 200,
    body: { id, value },
  });
  expect(await again.stop("SIGINT")).toBe(0);
  console.log(`${acknowledged.length} acknowledged over MQTT and ${created.size} over REST up to SIGTERM, all stored`);
});

/** Makes the gateway write log lines. @returns its health after that, and the exit code of its end */
async function provoke(gateway: BuiltGateway): Promise<{ health: number; exit: number | string }> {
  const client = await connectMqtt(gateway.mqttUrl);
  for (const payload of ["nonsense", '{"type":"sensor_reading"}', '{"type":"device_check_response"}'])
    await client.publishAsync("lambdaiot", payload, { qos: 1 });
  await client.endAsync();
  const { status } = await createApi(gateway.url)("GET", "/health");
  return { health: status, exit: await gateway.stop() };
}

test("waits for nobody who has said nothing: in plain, and before a TLS handshake", async () => {
  const folder = newFolder();
  makeCertificates({ dataFolder: folder, names: [], isForced: false, now: Date.now() });
  const env = { LAMBDAIOT_MQTT_CONNECT_TIMEOUT: "300", LAMBDAIOT_TLS_HANDSHAKE_TIMEOUT: "300" };
  const gateway = await startBuiltGateway({ folder, env });
  cleanUps.push(() => gateway.stop("SIGKILL"));
  for (const url of [gateway.url, gateway.mqttUrl, gateway.httpsUrl, gateway.mqttsUrl]) {
    const silent = connect(Number(new URL(url).port), "127.0.0.1").on("error", () => undefined);
    cleanUps.push(() => silent.destroy());
    await once(silent, "connect");
  }
  expect(await gateway.stop()).toBe(0); // in this test's time, not in theirs
});

test("goes on when whoever read its output has gone, as with | head -1", async () => {
  const gateway = await start(newFolder());
  gateway.process.stdout?.destroy();
  gateway.process.stderr?.destroy();
  expect(await provoke(gateway)).toEqual({ health: 200, exit: 0 });
});

test.skipIf(!existsSync("/dev/full"))("goes on when the disk behind its log is full", async () => {
  const full = ["sh", "-c", 'exec "$0" "$1" 2>/dev/full', process.execPath, bundle];
  expect(await provoke(await start(newFolder(), full))).toEqual({ health: 200, exit: 0 });
});

test.skipIf(!existsSync("/dev/full"))("starts when its greeting finds no room", async () => {
  // It cannot say where it listens, so it is told.
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  const folder = newFolder();
  const child = spawn("sh", ["-c", 'exec "$0" "$1" >/dev/full', process.execPath, bundle], {
    cwd: folder,
    env: { LAMBDAIOT_SERVER_PORT: String(port), LAMBDAIOT_MQTT_PORT: "0" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  cleanUps.push(() => child.kill("SIGKILL"));
  let logged = "";
  child.stderr.on("data", (chunk: Buffer) => (logged += chunk.toString()));
  const exited = once(child, "exit");
  const health = createApi(`http://127.0.0.1:${port}`);
  await until(async () => (await health("GET", "/health").catch(() => undefined))?.status === 200);
  child.kill("SIGTERM");
  expect(await exited).toEqual([0, null]);
  expect(logged).toContain("stopped");
});
